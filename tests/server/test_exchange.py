# Law of this file: a client is told of itself what it said, if that is a host, and nothing that
# another client said.

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.locality import NOWHERE, Whereabouts
from server.exchange import EXCHANGE, Exchange, client_of

LISTEN = "127.0.0.1:8417"


@dataclass
class Asking:
    """As much of a request as is looked at."""

    headers: dict[str, str]
    where: Whereabouts = field(default=NOWHERE)

    def __getitem__(self, key: object) -> Exchange:
        assert key is EXCHANGE
        return Exchange("id", self.where)


def base(host: str | None, public_url: str | None = None) -> str:
    """Where a client reaches the server that sent this Host header."""
    headers = {} if host is None else {"Host": host}
    return client_of(Asking(headers), public_url, LISTEN).base_url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["localhost", "git.example.org:8080", "127.0.0.1", "[::1]", "[2001:db8::1]:80", "a_b"]
)
def test_a_host_is_believed(host: str) -> None:
    """What is a host and a port is where the client reaches us."""
    assert base(host) == f"http://{host}"


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", "a b", "a/b", "a?b", "a#b", "a@b", "a:b", "a:", ":80", "a:123456", "a:65536"),
        *("a" * 260, "a" * 8000),
        *("[a", "a\n", "é", "a,b", "http://a", "a\\b", "\0", "a%00", "<a>", "'a'", "a:80:80"),
    ],
)
def test_what_is_no_host_is_not_believed(host: str | None) -> None:
    """What is none is as if it had not been said: the address that we listen on counts."""
    assert base(host) == f"http://{LISTEN}"


@given(st.text(max_size=30))
def test_any_header(host: str) -> None:
    """Whatever a header says, the client's base URL is one, and no error."""
    assert base(host) in {f"http://{LISTEN}", f"http://{host}"}


@given(st.text(max_size=30))
def test_public_url_wins_over_any_header(host: str) -> None:
    """With public_url no header counts."""
    assert base(host, "https://git.example.org/x") == "https://git.example.org/x"


def test_an_exchange_begins_with_nothing() -> None:
    """Nothing is counted of a request that was not understood."""
    exchange = Exchange("id")
    assert (exchange.repository, exchange.dialect, exchange.command) == (None, "", "")
    assert (exchange.outcome, exchange.sent, exchange.redirected) == (None, 0, 0)


def test_a_client_is_where_its_request_is() -> None:
    """What is known of the request's origin is the client's; a server option of git goes before."""
    asking = Asking({}, Whereabouts("192.0.2.7", "192.0.2.0/24", "office"))
    said = [
        ("x", "offramp.region=eu-west-1"),
        ("offramp.regions=b", "offramp.region=No Region"),
        (),
    ]
    clients = [client_of(asking, None, LISTEN, options) for options in said]  # type: ignore[arg-type]
    assert [client.region for client in clients] == ["eu-west-1", "office", "office"]
    assert {client.network for client in clients} == {"192.0.2.0/24"}
