# Law of this file: the terraform program works on a copy of ours, with the provider that is on this
# machine, and asks no network for anything.

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TERRAFORM: Final = Path(__file__).parents[2] / "terraform"

_FOUND: Final = shutil.which("terraform")

# Where Terraform itself looks for providers, and where machines for development have them.
_MIRRORS: Final = (
    "/opt/tf-plugins",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
)


def _mirror() -> Path | None:
    """The directory of providers that has AWS's."""
    for place in map(Path, (os.environ.get("TF_PLUGIN_CACHE_DIR", ""), *_MIRRORS)):
        if place.is_absolute() and any(place.glob("*/hashicorp/aws/*/*/terraform-provider-aws*")):
            return place
    return None


MIRROR: Final = _mirror()

# Neither is a package of Debian, PyPI or npm, so a machine without them may have to say so.
WITHOUT: Final = "WITHOUT_TERRAFORM"

NO_PROGRAM: Final = (
    ""
    if _FOUND
    else "NOT CHECKED: terraform is not installed, so what is below terraform/ was not tried; put"
    " Terraform 1.9 or later on PATH"
)
NO_PROVIDER: Final = NO_PROGRAM or (
    ""
    if MIRROR
    else "NOT CHECKED: the provider hashicorp/aws is not installed, so what is below terraform/ was"
    f" not tried; it is looked for in TF_PLUGIN_CACHE_DIR, {', '.join(_MIRRORS)}. With"
    " TF_PLUGIN_CACHE_DIR set, `terraform init` in terraform/modules/bundle-store puts it there"
)


def demanded(missing: str, environ: Mapping[str, str]) -> str:
    """What CI fails with where ``missing`` tells of something; empty where it need not fail.

    ``environ``: in which ``CI`` says that this is CI, and ``WITHOUT_TERRAFORM=1`` that
    this machine cannot have it.
    """
    if not missing or not environ.get("CI") or environ.get(WITHOUT) == "1":
        return ""
    return f"{missing}. Where that cannot be, {WITHOUT}=1 has CI go on without"


@dataclass(frozen=True)
class Terraform:
    """A copy of ``terraform/``.

    Attributes:
        home: where it is, with what terraform writes.
    """

    home: Path

    @classmethod
    def copied(cls, home: Path) -> Terraform:
        """Copy it into the empty directory ``home``."""
        ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*")
        shutil.copytree(TERRAFORM, home / "terraform", ignore=ignored)
        mirror = "" if MIRROR is None else f'filesystem_mirror {{\n path = "{MIRROR}"\n }}'
        (home / "rc").write_text(f"provider_installation {{\n {mirror}\n}}\n")
        return cls(home)

    def run(
        self, place: str, *words: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``terraform`` in ``place`` (such as ``modules/bundle-store``)."""
        assert _FOUND is not None
        return subprocess.run(
            (_FOUND, *words),
            cwd=self.home / "terraform" / place,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "TMPDIR": str(self.home),
                "CHECKPOINT_DISABLE": "1",
                # A third less processor time for a little more memory: what runs does so briefly.
                "GOGC": "400",
                "TF_IN_AUTOMATION": "1",
                "TF_CLI_CONFIG_FILE": str(self.home / "rc"),
                **(environ or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def ready(self, place: str) -> None:
        """Make ``place`` ready for other commands."""
        done = self.run(place, "init", "-no-color", "-input=false")
        assert done.returncode == 0, done.stderr

    def tested(self, place: str, *, states: bool = False) -> list[Any]:
        """Run the tests in ``place``; what terraform told, a JSON object a line.

        ``states``: also what each run ended with, as ``show -json`` has it; that costs seconds,
        for it comes with the schemas of all that AWS has.
        """
        done = self.run(place, "test", "-json", *(("-verbose",) if states else ()))
        told = [json.loads(line) for line in done.stdout.splitlines()]
        wrong = [each["@message"] for each in told if each["@level"] in {"error", "warn"}]
        assert (done.returncode, wrong) == (0, []), done.stdout
        return told


if __name__ == "__main__":
    sys.exit(demanded(NO_PROVIDER, {**os.environ, "CI": "1"}) or 0)
