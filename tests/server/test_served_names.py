# Law of this file: a name means at the command line what it means in a URL.

from __future__ import annotations

from pathlib import Path

import pytest

from server.served_names import nearest, served_name
from server.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server with three repositories and an upstream."""
    for name in ("project.git", "both.git"):
        for folder in ("objects", "refs"):
            (tmp_path / "team" / name / folder).mkdir(parents=True)
        (tmp_path / "team" / name / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / "team" / "both" / ".hg" / "store").mkdir(parents=True)
    forge = {"prefix": "/forge/", "url": "https://forge.example.org", "public": True}
    return Settings.model_validate({"root": tmp_path, "upstreams": [forge]})


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("team/project.git", "team/project.git"),
        ("team/project", "team/project.git"),
        ("/team/project/", "team/project.git"),
        ("team/project.git/.git", "team/project.git"),
        # A Mercurial repository is called just so; the other has a longer name.
        ("team/both", "team/both"),
        ("team/both.git", "team/both.git"),
        ("forge/a/b.git", "forge/a/b"),
        ("team/../team/project", None),
        ("team", None),
        ("", None),
    ],
)
def test_what_a_name_means(settings: Settings, name: str, served: str | None) -> None:
    """The repository that a client would get, or none."""
    assert served_name(settings, name) == served


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("project", "team/project.git"),
        ("Team/Project.git", "team/project.git"),
        ("team/projects", "team/project.git"),
        ("something else", None),
    ],
)
def test_what_may_be_meant(settings: Settings, name: str, near: str | None) -> None:
    """One of the same last name, or else one that is spelt much like it."""
    assert nearest(settings, name) == near
