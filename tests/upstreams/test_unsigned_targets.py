# Law of this file: where anything that is served is private, no target has URLs that work without a
# signature, whatever uses it: who may read a store unsigned may read all that is in it.

from __future__ import annotations

from itertools import product
from typing import Any, Final

import pytest
from pydantic import ValidationError

from server.settings import Settings

OPEN: Final = {"prefix": "/open/", "url": "https://open.example.org", "public": True}
CLOSED: Final = {"prefix": "/closed/", "url": "https://closed.example.org"}
OWN: Final = {"type": "self", "name": "own"}
CDN: Final = {"type": "http", "name": "cdn", "base_url": "https://cdn.example.org"}
S3: Final = {"type": "s3", "bucket": "b", "region": "r"}
BUCKET: Final = {"type": "s3", "name": "bucket", "public": True}
TOKENS: Final = [{"token": "0123456789abcdef-opens-all", "repositories": ["*"]}]
UNSIGNED: Final[dict[str, dict[str, Any]]] = {
    "cdn": {"targets": [OWN, CDN]},
    "bucket": {"store": S3, "targets": [OWN, BUCKET]},
}
LISTS: Final = ([], ["own"])


@pytest.mark.parametrize("unsigned", UNSIGNED.values(), ids=UNSIGNED)
@pytest.mark.parametrize(("closed", "opened"), list(product(LISTS, LISTS)))
def test_one_private_upstream_is_enough(
    unsigned: dict[str, Any], closed: list[str], opened: list[str]
) -> None:
    """Beside public ones, and whichever targets it and they list."""
    upstreams = [{**OPEN, "targets": opened}, {**CLOSED, "targets": closed}]
    for ordered in (upstreams, upstreams[::-1]):
        with pytest.raises(ValidationError, match=r"'.?closed.?' is private.*are not signed"):
            Settings.model_validate({"upstreams": ordered, **unsigned})
    said = [{**upstream, "public": True} for upstream in upstreams]
    assert Settings.model_validate({"upstreams": said, **unsigned})


@pytest.mark.parametrize("unsigned", UNSIGNED.values(), ids=UNSIGNED)
def test_a_private_root_beside_public_upstreams(unsigned: dict[str, Any]) -> None:
    """It has no list; what upstreams list does not help it."""
    values = {"root": ".", "upstreams": [{**OPEN, "targets": ["own"]}], **unsigned}
    access = {"auth": "token", "tokens": TOKENS}
    with pytest.raises(ValidationError, match=r"below ROOT are private.*are not signed"):
        Settings.model_validate({**values, "access": access})
    assert Settings.model_validate({**values, "access": {**access, "public": True}})
    assert Settings.model_validate(values)


@pytest.mark.parametrize("unsigned", UNSIGNED.values(), ids=UNSIGNED)
def test_a_public_root_beside_a_private_upstream(unsigned: dict[str, Any]) -> None:
    """What is public beside it does not open what is private."""
    values = {"root": ".", "upstreams": [{**CLOSED, "targets": ["own"]}], **unsigned}
    with pytest.raises(ValidationError, match="are not signed"):
        Settings.model_validate(values)


@pytest.mark.parametrize("auth", ["upstream", "token", "proxy", "none"])
def test_signed_targets_are_for_everything(auth: str) -> None:
    """Whoever decides: targets whose URLs are signed name what is private."""
    access = {"proxies": ["192.0.2.1"]} if auth == "proxy" else {}
    access |= {"tokens": TOKENS} if auth == "token" else {}
    signed = {"store": S3, "targets": [OWN, {**BUCKET, "public": False}]}
    values = {"upstreams": [OPEN, {**CLOSED, "auth": auth}], "access": access, **signed}
    assert Settings.model_validate(values)
    with pytest.raises(ValidationError, match="are not signed"):
        Settings.model_validate({**values, "targets": [OWN, BUCKET]})
