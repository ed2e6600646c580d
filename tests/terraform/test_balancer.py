# Law of this file: the load balancer's rules, read as it reads them, let clients through to what is
# theirs and to nothing that is for operators. Needs no terraform.

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Final

import pytest
from yarl import URL

from tests.terraform.program import TERRAFORM

TEXT: Final = (TERRAFORM / "modules/index-service/balancer.tf").read_text()
ROUTES: Final = (TERRAFORM.parent / "docs/routes.md").read_text()


def patterns(rule: str) -> list[str]:
    """The path patterns of a rule: `*` is any characters, `?` one, and case counts."""
    body = TEXT.partition(f'"aws_lb_listener_rule" "{rule}"')[2]
    found = re.search(r"values = \[(.*)\]", body)
    assert found is not None
    return re.findall(r'"([^"]+)"', found[1])


def forwarded(path: str) -> bool:
    """Whether a request for a path, as it was written, reaches a task."""
    if any(fnmatchcase(path, pattern) for pattern in patterns("clients")):
        return True
    return not any(fnmatchcase(path, pattern) for pattern in patterns("operators"))


def routes(*, operators: bool) -> list[str]:
    """Paths of docs/routes.md below /-/, which a test there holds to be all."""
    rows = [re.split(r" *\| *", line) for line in ROUTES.splitlines() if line.startswith("| `/-/")]
    return [
        re.sub(r"[{<].*", "x", row[1].strip("`"))
        for row in rows
        if ("operators" in row[5]) == operators
    ]


def test_clients_get_what_is_theirs() -> None:
    """What is for clients passes: repositories, content, lists, and whether we are well."""
    theirs = routes(operators=False)
    assert {"/-/blobs/x", "/-/livez", "/-/readyz"} <= set(theirs)
    assert [path for path in theirs if not forwarded(path)] == []
    assert forwarded("/forge/group/project.git/info/refs")


def test_nobody_gets_what_is_for_operators() -> None:
    """No route for operators passes."""
    theirs = routes(operators=True)
    assert {"/-/", "/-/metrics", "/-/api/decisions"} <= set(theirs)
    assert [path for path in theirs if forwarded(path)] == []


@pytest.mark.parametrize("path", ["/-/%6Detrics", "/-/%61pi/decisions"])
def test_however_the_rest_is_written(path: str) -> None:
    """What a server would decode to such a route does not pass; another first word finds none."""
    assert URL(path, encoded=True).path in {"/-/metrics", "/-/api/decisions"}
    assert not forwarded(path)


def test_a_rule_has_no_more_values_than_aws_takes() -> None:
    """Five at most: more, and an apply fails in the middle."""
    assert all(len(patterns(rule)) <= 5 for rule in ("clients", "operators"))


def test_a_pattern_has_no_character_that_aws_refuses() -> None:
    """Those that the API names, and no other; a refusal would end an apply in the middle."""
    for rule in ("clients", "operators"):
        for pattern in patterns(rule):
            assert re.fullmatch(r"""[A-Za-z0-9_\-.$/~"'@:+&*?]{1,128}""", pattern)
