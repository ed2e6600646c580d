# Law of this file: what can change changes, what cannot is named, what is broken changes
# nothing.

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from cli.setting_list import sections
from server.reloading import LIVE, Reloading, Unreadable, change
from server.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def settings(**values: object) -> Settings:
    """Settings, with these written otherwise than by default."""
    return Settings.model_validate(values)


def test_what_can_change_is_taken_and_the_rest_is_left() -> None:
    """Each by its path; of what is left nothing gets into the new settings."""
    old = settings(redirect={"min_size": 1, "lifetime": 100}, workers=2)
    new = settings(
        redirect={"min_size": 2, "lifetime": 200, "shadow": True},
        regions={"networks": {"eu": ["192.0.2.0/24"]}},
        index={"enabled": True, "growth": 0.5},
        targets=[{"type": "http", "base_url": "https://cdn.example.org"}],
        store={"type": "s3", "bucket": "b"},
        workers=3,
    )
    found = change(old, new)
    assert set(found.taken) == {
        "redirect.min_size",
        "redirect.shadow",
        "regions.networks",
        "index.growth",
    }
    assert set(found.left) == {"redirect.lifetime", "index.enabled", "targets", "store", "workers"}
    assert (found.settings.redirect.min_size, found.settings.redirect.lifetime) == (2, 100)
    assert found.settings.redirect.shadow
    assert found.settings.regions.networks == {"eu": ("192.0.2.0/24",)}
    assert (found.settings.index.growth, found.settings.index.enabled) == (0.5, False)
    assert (found.settings.store, found.settings.workers) == (old.store, 2)
    assert not old.redirect.shadow


def test_nothing_changed() -> None:
    """The same settings are no change."""
    found = change(settings(workers=2), settings(workers=2))
    assert (found.taken, found.left) == ((), ())
    assert found.settings == settings(workers=2)


def test_a_secret_is_told_by_its_path_alone() -> None:
    """What a key was and is, is in nothing that is logged."""
    store = {"type": "s3", "bucket": "b", "access_key_id": "AKIA"}
    old, new = (settings(store={**store, "secret_access_key": key}) for key in ("one", "two"))
    assert change(old, new).left == ("store.secret_access_key",)


def test_all_that_can_change_is_a_setting_and_is_documented() -> None:
    """No name is made up, and operators find each on the page."""
    known = {setting.path for section in sections() for setting in section.settings}
    assert known >= LIVE
    for path in LIVE:
        section, _, name = path.partition(".")
        assert f"`{path}`" in PAGE or f"| `{section}` |" in PAGE
        assert f"`{name}`" in PAGE


class House:
    """Somebody who goes on with new settings, or cannot."""

    def __init__(self) -> None:
        self.got: list[Settings] = []
        self.written: list[Settings | str] = []
        self.broken = False

    def read(self) -> Settings:
        """What is written next."""
        found = self.written.pop(0)
        if isinstance(found, str):
            raise Unreadable(found)
        return found

    async def adopt(self, new: Settings) -> None:
        """Go on."""
        if self.broken:
            raise OSError("no")
        self.got.append(new)


async def test_broken_settings_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """They are told; so is whatever else goes wrong; the next good ones count."""
    house = House()
    shadow, off = settings(redirect={"shadow": True}), settings(redirect={"enabled": False})
    reloading = Reloading(settings(), house.read, house.adopt)
    house.written = ["x.toml: redirect.percentage = 200: too much", shadow, off, off]
    await reloading.once()
    assert "the settings of before stay: x.toml: redirect.percentage" in caplog.text
    house.broken = True
    await reloading.once()
    assert "were not taken over" in caplog.text
    assert reloading.settings == settings()
    house.broken = False
    await reloading.once()
    await reloading.once()
    assert house.got == [off]


async def test_it_is_read_each_time_that_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What happens while nothing is awaited is one time; the log says what is new."""
    caplog.set_level(logging.INFO)
    house, told, adopted = House(), asyncio.Event(), asyncio.Event()

    async def adopt(new: Settings) -> None:
        await house.adopt(new)
        adopted.set()

    house.written = [settings(redirect={"percentage": 5}, workers=3), settings()]
    task = asyncio.create_task(Reloading(settings(), house.read, adopt).run(told))
    for _ in range(2):
        told.set()
        await adopted.wait()
        adopted.clear()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [got.redirect.percentage for got in house.got] == [5, 100]
    assert "changed, but only by a restart: workers" in caplog.text
    assert "goes on with new redirect.percentage" in caplog.text
