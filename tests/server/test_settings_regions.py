# Law of this file: regions and networks that contradict each other or are misspelt are refused with
# a sentence that names them.

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from redirects.selection import Distance, Selection
from redirects.targets import Target
from server.placing import Stores
from server.settings import Settings, load
from server.wiring import build_selection, build_targets, signing_keys
from stores.memory import MemoryStore

HTTP = '[[targets]]\ntype = "http"\nname = "{0}"\nbase_url = "https://{0}.example.org"\n'


def settings(tmp_path: Path, text: str) -> Settings:
    """What a file says."""
    path = tmp_path / "offramp.toml"
    path.write_text(text)
    return load(path)


async def selection(tmp_path: Path, text: str) -> Selection[Target]:
    """The targets of a file."""
    read = settings(tmp_path, text)
    store = MemoryStore()
    targets = await build_targets(read, Stores(store), signing_keys(tmp_path))
    return build_selection(read, targets)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[regions.networks]\na = ["10.0.0.0/8"]\nb = ["10.0.0.0/8"]', "regions 'a' and 'b'"),
        ('[regions.networks]\na = ["::ffff:10.0.0.0/104"]\nb = ["10.0.0.0/8"]', "'a' and 'b'"),
        ('[regions.networks]\na = ["10.0.0.1/8"]', "within 10.0.0.0/8"),
        ('[regions.networks]\na = ["10.0.0.0/33"]', "no address or network"),
        ('[regions.networks]\na = ["here"]', "no address or network"),
        ('[regions.networks]\n"A B" = ["10.0.0.0/8"]', "no name of a region"),
        ('[regions]\nproxies = ["proxy"]', "no address or network"),
        ('[regions]\nrefresh = "1s"', "greater than or equal to 60"),
        ('[[regions.lists]]\nformat = "aws"', "either by `url` or by `file`"),
        ('[[regions.lists]]\nformat = "aws"\nurl = "https://a"\nfile = "b"', "either by"),
        ('[[regions.lists]]\nformat = "azure"\nurl = "https://a"', "'aws' or 'google'"),
        ('[[regions.lists]]\nformat = "aws"\nurl = "https://me@host"', "without user"),
        (HTTP.format("a") + 'regions = ["EU"]', "matches no region"),
        (HTTP.format("a") + 'regions = [""]', "matches no region"),
        (HTTP.format("a") + "weight = -1", "greater than or equal to 0"),
        (HTTP.format("a") + "weight = inf", "finite"),
        (HTTP.format("a") + "weight = 0", "nobody would be sent anywhere"),
    ],
)
def test_refused(tmp_path: Path, text: str, why: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValidationError, match=why):
        settings(tmp_path, text)


def test_nested_networks_are_fine(tmp_path: Path) -> None:
    """A smaller one in another region, and the same one twice in its own."""
    read = settings(
        tmp_path,
        '[regions.networks]\na = ["10.0.0.0/8", "10.0.0.0/8"]\nb = ["10.1.0.0/16", "10.0.0.1"]',
    )
    assert read.regions.networks["b"] == ("10.1.0.0/16", "10.0.0.1/32")


async def test_targets_stand_as_the_settings_say(tmp_path: Path) -> None:
    """Priority is the place in the list where none is given; others share."""
    text = HTTP.format("a") + 'regions = ["eu-*"]\npriority = 3\nweight = 0.5\n'
    text += HTTP.format("b") + HTTP.format("c") + "[redirect]\nother_regions = false\n"
    chosen = await selection(tmp_path, text)
    ranked = {
        candidate.target.name: (candidate.distance, candidate.priority, candidate.weight)
        for group in chosen._ranked("eu-west-1")
        for candidate in group.candidates
    }
    assert ranked == {
        "a": (Distance.SAME_REGION, 3, 0.5),
        "b": (Distance.EVERYWHERE, 2, 1.0),
        "c": (Distance.EVERYWHERE, 3, 1.0),
    }
    assert chosen.other_regions is False
