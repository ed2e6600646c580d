# Law of this file: stock git is sent to the file server of its region, by its own word or by its
# address, and what it gets is the same wherever it comes from.

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from indexer.report import Silent
from server.indexing import index_all
from tests.conformance.clones import (
    V2_HEADERS,
    Client,
    accepting,
    locations,
    packet,
    state,
    stock,
    v2_request,
)
from tests.conformance.places import file_server
from tests.conformance.repositories import Repository
from tests.conftest import Serve, Served

# Networks for documentation (RFC 5737), in the place of two offices.
EUROPE, AMERICA, NOWHERE = "192.0.2.7", "198.51.100.7", "203.0.113.7"


@pytest.fixture
async def cdns(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Two file servers, by the region that they are in."""
    store = tmp_path / "data" / "store"
    (store / "entities").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        yield {
            region: await stack.enter_async_context(file_server(store)) for region in ("eu", "us")
        }


async def served_with(serve: Serve, root: Path, cdns: dict[str, str], **redirect: object) -> Served:
    """A server with a target in each region, which believes this machine as its proxy."""
    served = await serve(
        root,
        targets=[
            {"type": "http", "name": region, "base_url": url, "regions": [f"{region}-*"]}
            for region, url in cdns.items()
        ],
        regions={
            "networks": {"eu-west-1": ["192.0.2.0/24"], "us-east-1": ["198.51.100.0/24"]},
            "proxies": ["127.0.0.0/8"],
        },
        redirect={"min_size": 0, **redirect},
    )
    await index_all(served.settings, Silent(), gc=True)
    await served.runtime.catalogs.refresh_all()
    return served


def from_address(client: Client, address: str) -> Client:
    """The client, as a proxy on this machine hands it on."""
    settings = (*client.settings, f"http.extraHeader=X-Forwarded-For: {address}")
    return Client(client.directory, settings, client.environ)


async def sent_to(client: Client, url: str, name: str, *options: str) -> set[str]:
    """Clone, and return the addresses that git was sent to."""
    said = await client.traced()("clone", "--bare", *options, url, name)
    return {urlsplit(found).netloc for found in locations(said).values()}


async def test_stock_git_is_sent_to_its_region(
    serve: Serve, repository: Repository, tmp_path: Path, cdns: dict[str, str]
) -> None:
    """By its address, by its word, which goes before, and by the header; all get the same."""
    served = await served_with(serve, repository.root, cdns)
    url = repository.url(served.url)
    client = accepting(tmp_path)
    eu, us = ({urlsplit(cdns[region]).netloc} for region in ("eu", "us"))
    europe, america = (from_address(client, address) for address in (EUROPE, AMERICA))
    word = "--server-option=offramp.region=us-west-2"
    header = Client(tmp_path, (*client.settings, "http.extraHeader=X-Offramp-Region: us-east-1"))
    assert await sent_to(europe, url, "europe") == eu
    assert await sent_to(america, url, "america") == us
    assert await sent_to(europe, url, "word", word) == us
    assert await sent_to(header, url, "header") == us
    # Nobody knows where this is: it goes by the order of the targets.
    assert await sent_to(from_address(client, NOWHERE), url, "nowhere") == eu

    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    expected = await state(stock(tmp_path), tmp_path / "stock")
    for name in ("europe", "america", "word", "header", "nowhere"):
        assert await state(client, tmp_path / name) == expected


async def test_other_regions_can_be_forbidden(
    serve: Serve, repository: Repository, tmp_path: Path, cdns: dict[str, str]
) -> None:
    """A client of no known region gets the same repository inline."""
    served = await served_with(serve, repository.root, cdns, other_regions=False)
    url = repository.url(served.url)
    nowhere = from_address(accepting(tmp_path), NOWHERE)
    assert await sent_to(nowhere, url, "nowhere") == set()
    await stock(tmp_path)("clone", "--bare", repository.stock_url, "stock")
    assert await state(nowhere, tmp_path / "nowhere") == await state(
        stock(tmp_path), tmp_path / "stock"
    )
    # What was computed meanwhile is published for those who are somewhere.
    europe = from_address(accepting(tmp_path), EUROPE)
    assert await sent_to(europe, url, "shallow", "--depth=1") == {urlsplit(cdns["eu"]).netloc}


async def test_bundle_lists_name_the_target_of_the_region(
    serve: Serve, repository: Repository, tmp_path: Path, cdns: dict[str, str]
) -> None:
    """A list of bundles is one for this client: as the answer to its command, and as a file."""
    served = await served_with(serve, repository.root, cdns)
    url, listing = repository.url(served.url), f"{served.url}/-/bundles/{repository.name}"
    option = packet("server-option=offramp.region=us-x")
    body = v2_request("bundle-uri").replace(b"0001", option + b"0001")
    headers = {**V2_HEADERS, "X-Forwarded-For": EUROPE}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/git-upload-pack", data=body, headers=headers) as answer:
            by_command = await answer.text()
        async with session.get(listing, headers={"X-Forwarded-For": AMERICA}) as answer:
            as_file = await answer.text()
        async with session.get(listing, headers={"X-Forwarded-For": EUROPE}) as answer:
            in_europe = await answer.text()
    assert cdns["us"] in by_command
    assert cdns["us"] in as_file
    assert cdns["eu"] not in by_command + as_file
    assert cdns["eu"] in in_europe
