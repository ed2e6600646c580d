# Law of this file: repositories that tests only read are made once for all of them.

from __future__ import annotations

from tests.repos.hg_kinds import kinds, newer_kinds

__all__ = ["kinds", "newer_kinds"]
