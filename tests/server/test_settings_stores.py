# Law of this file: stores, targets and placements that do not fit together are refused, with a
# sentence that says what to write.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cli.serve import uri_protocols
from server.settings import Settings

EU = {"name": "eu", "type": "directory", "path": "/srv/eu"}
BUCKET = {"type": "s3", "bucket": "b", "prefix": "git"}
CDN = {"type": "http", "base_url": "https://eu.example.org", "store": "eu"}


def settings(**values: Any) -> Settings:
    """Settings of a server whose data is elsewhere."""
    return Settings.model_validate({"data": Path("/srv/data"), **values})


def test_each_target_has_its_store() -> None:
    """The main one, if it names none; S3 targets are of stores of type s3."""
    s3 = {"name": "us", **BUCKET, "endpoint": "http://s3.example.org"}
    targets = [CDN, {"type": "s3", "store": "us"}, {"type": "self"}]
    read = settings(stores=[EU, s3], targets=targets)
    assert [read.store_of(target) for target in read.targets] == [*read.stores, read.store]
    assert uri_protocols(read, "https://git.example.org") == "http,https"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"targets": [CDN]}, "target 'http' names the store 'eu'.*there are main$"),
        ({"stores": [EU]}, "no target reads the store 'eu'"),
        ({"stores": [EU, {**EU, "path": "/srv/x"}]}, "two stores are named 'eu'"),
        ({"stores": [{**EU, "name": "main"}]}, "two stores are named 'main'"),
        ({"stores": [{**EU, "path": "/srv/data/x/../store"}]}, "'main' and 'eu' are at one place"),
        (
            {
                "store": BUCKET,
                "stores": [{"name": "eu", **BUCKET, "prefix": "git/"}],
            },
            r"at one place \(s3 b/git\)",
        ),
        ({"stores": [EU], "targets": [{"type": "self", "store": "eu"}]}, "leave `store` out"),
        ({"stores": [EU], "targets": [{"type": "s3", "store": "eu"}]}, "needs a store of type s3"),
        (
            {"store": BUCKET, "stores": [EU], "targets": [{**CDN, "store": "us"}]},
            "there are main, eu",
        ),
        ({"stores": [{"name": "eu", "type": "directory"}]}, "Field required"),
        (
            {"placements": [{"repositories": ["a"], "stores": ["eu"]}]},
            "the placement of a names the store 'eu'",
        ),
        ({"placements": [{"repositories": ["a"], "stores": []}]}, "at least 1 item"),
        ({"placements": [{"repositories": [], "stores": ["main"]}]}, "at least 1 item"),
        ({"placements": [{"repositories": ["/a"], "stores": ["main"]}]}, "matches no repository"),
        ({"placements": [{"repositories": ["a"], "stores": ["main"] * 2}]}, "is in it twice"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], said: str) -> None:
    """By a sentence that names it."""
    with pytest.raises(ValidationError) as caught:
        settings(**values)
    messages = [error["msg"] for error in caught.value.errors()]
    assert any(re.search(said, message) for message in messages), messages
