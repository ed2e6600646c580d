# Law of this file: settings mean what their texts say; nonsense is refused and nothing else.

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from server.setting_types import Duration, Size, host_port, parse_duration, parse_size
from server.settings import Settings, load
from server.settings_repositories import GitSettings
from server.settings_targets import S3StoreSettings

SIZE: TypeAdapter[int] = TypeAdapter(Size)
DURATION: TypeAdapter[float] = TypeAdapter(Duration)


def toml(tmp_path: Path, text: str) -> Path:
    """A settings file."""
    path = tmp_path / "offramp.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        (" 12 ", 12),
        ("64KiB", 64 << 10),
        ("64k", 64 << 10),
        ("20 GB", 20 << 30),
        ("1.5MiB", 3 << 19),
        ("2T", 2 << 40),
        (7, 7),
    ],
)
def test_sizes(text: object, size: int) -> None:
    """Sizes are bytes or have a unit of 1024."""
    assert SIZE.validate_python(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10), ("15m", 900), ("6h", 21600), ("7 d", 604800), ("3", 3), (4, 4)],
)
def test_durations(text: object, seconds: float) -> None:
    """Durations are seconds or have a unit."""
    assert DURATION.validate_python(text) == pytest.approx(seconds)


@given(st.text())
@example("9" * 400 + " GiB")
@example("9" * 400)
@example("9" * 5000)
def test_any_text_is_a_size_or_refused(text: str) -> None:
    """No text makes anything but a size or the model's own error."""
    with suppress(ValidationError):
        assert 0 <= SIZE.validate_python(text) < 1 << 63


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    """No text makes anything but a duration or the model's own error."""
    try:
        seconds = DURATION.validate_python(text)
    except ValidationError:
        return
    assert seconds >= 0 or math.isnan(seconds)


@given(st.integers(0, 1 << 50))
def test_plain_numbers_stay(number: int) -> None:
    """A number without a unit is what it is, as text and as number."""
    assert parse_size(number) == number
    assert SIZE.validate_python(str(number)) == number
    assert parse_duration(number) == number


def test_the_last_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags win over variables, variables over the file, the file over defaults."""
    file = toml(tmp_path, 'listen = "127.0.0.1:1"\nworkers = 2\n[redirect]\nmin_size = "1KiB"\n')
    monkeypatch.setenv("OFFRAMP_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("OFFRAMP_REDIRECT__MIN_SIZE", "2KiB")
    settings = load(file, listen="127.0.0.1:3")
    assert settings.listen == "127.0.0.1:3"
    assert settings.redirect.min_size == 2048
    assert settings.workers == 2
    assert settings.redirect.window == 900


def test_two_files_do_not_mix(tmp_path: Path) -> None:
    """What one file says is forgotten when the next is read."""
    assert load(toml(tmp_path, "workers = 3")).workers == 3
    assert load(None).workers == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("workerz = 1", "workerz"),
        ("[redirect]\nmin_sise = 1", "min_sise"),
        ('listen = "here"', "HOST:PORT"),
        ('[[targets]]\ntype = "self"\n[[targets]]\ntype = "self"', "two targets"),
        ('[[targets]]\ntype = "s3"', "needs a store of type s3"),
        ('[retention]\nkeep = "1h"', "outlive content"),
        ('[store]\ntype = "s3"\nbucket = "b"\naccess_key_id = "x"', "go together"),
        ('[store]\ntype = "s3"\nbucket = "b"\nprefix = "/x"', "slash"),
        ('public_url = "https://me@host"', "without user"),
        ('public_url = "ftp://host"', "no base URL"),
        ('public_url = "https://a b"', "no base URL"),
        ('[redirect]\nwindow = "2 minutes"', 'no duration; write seconds, or .* such as "90s"'),
        ('[redirect]\nmax_wait = "inf"', "finite"),
        ('[hg]\nbundles = ["zstd-v2", "gzip-v2", "zstd-v2"]', "'zstd-v2' is in it twice"),
        ('[hg]\nredirect_getbundle_clients = ["7"]', 'release line .* such as "7.2"'),
        ('[hg]\nredirect_getbundle_clients = ["7.2.4"]', "release line"),
        ('[hg]\nprogram = "bin/hg"', "relative path"),
        ('[health]\ntimeout = "6s"', "at most half of health.interval"),
        ('[health]\nsuspicion = "1h"', "less than or equal to 600"),
        ("[health]\njitter = 1", "less than or equal to 0.9"),
        ('[hg]\npush = ["/team/*"]', "without slashes around it"),
        ('[hg]\npush = [""]', "matches no repository"),
    ],
)
def test_refused(tmp_path: Path, text: str, why: str) -> None:
    """A setting that cannot work is refused with its reason."""
    with pytest.raises(ValidationError, match=why):
        load(toml(tmp_path, text))


def test_secrets_are_not_shown() -> None:
    """Printing settings prints no secret."""
    store = S3StoreSettings.model_validate(
        {"type": "s3", "bucket": "b", "access_key_id": "id", "secret_access_key": "hunter2"}
    )
    assert "hunter2" not in repr(Settings(store=store))
    assert "hunter2" not in Settings(store=store).model_dump_json()


def test_default_targets() -> None:
    """Without targets there is our own route, and before it S3 if that is the store."""
    assert [t.type for t in Settings().effective_targets()] == ["self"]
    store = S3StoreSettings(type="s3", bucket="b")
    assert [t.type for t in Settings(store=store).effective_targets()] == ["s3", "self"]


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8417", ("127.0.0.1", 8417)),
        ("[::1]:0", ("::1", 0)),
        ("git.example.org:65535", ("git.example.org", 65535)),
    ],
)
def test_host_port(listen: str, expected: tuple[str, int]) -> None:
    """An address is a host and a port."""
    assert host_port(listen) == expected


@given(st.text())
def test_any_text_is_an_address_or_refused(listen: str) -> None:
    """No text makes anything but an address or a ValueError."""
    try:
        host, port = host_port(listen)
    except ValueError:
        return
    assert host
    assert 0 <= port <= 65535


def test_push_patterns() -> None:
    """Pushes are accepted by the repositories that a pattern names, and by no others."""
    git = GitSettings(push=("team/*", "one"))
    assert git.may_push("team/a")
    assert git.may_push("one")
    assert not git.may_push("other")
    assert not GitSettings().may_push("one")
