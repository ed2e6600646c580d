# Law of this file: each stock Mercurial of the tests is installed whole or not at all, from PyPI,
# pinned, and a second run does nothing. It never enters our own environment: it is GPL.

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.hg.versions import ROOT, V1, V2, directory, executable, pure_mark, stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

# 5.9.3 has no wheel. Its bytes are named, because what is built from them is patched.
_SDIST_SHA256: Final = "3b43f68977ad0fa75aa7f1e5c8f0a83ba935621ab2396129abb498e56d1be08e"
_PACKAGES: Final = ("mercurial", "hgext", "hgext3rd", "hgdemandimport", "hg")
# Brings the distutils, which Debian packs apart and Python 3.12 dropped.
_SETUPTOOLS: Final = "setuptools==80.9.0"
# The lazy imports of 5.9.3 go round in circles in the `threading` of Python 3.13.
_EAGER: Final = "os.environ.setdefault('HGDEMANDIMPORT', 'disable')\n"
# The number is to be raised whenever something else comes out of this file.
_RECIPE: Final = f"2 for {sys.executable} {sys.version.split()[0]}"


def main() -> None:
    """Install every version that is not there yet."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with _alone():
        for version in (V2, *V1):
            if _is_installed(version):
                continue
            _say(f"installing Mercurial {version} for the tests")
            _install(version)


def _is_installed(version: str) -> bool:
    try:
        return stamp(version).read_text() == _RECIPE
    except OSError:
        return False


def _install(version: str) -> None:
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=f".{version}-") as scratch:
        made = Path(scratch, "made")
        if version == V2:
            _build(Path(scratch), made)
        else:
            _unpack_wheel(version, made)
        _run_by_this_python(made / "hg", eager=version == V2 and sys.version_info >= (3, 12))
        # Without their compiled form every hg process of a read-only tree would compile again.
        compileall = (sys.executable, "-W", "ignore", "-m", "compileall", "-qq", "-j0")
        subprocess.run([*compileall, str(made)], check=False)
        (made / stamp(version).name).write_text(_RECIPE)
        if directory(version).exists():
            directory(version).rename(Path(scratch, "old"))
        made.rename(directory(version))
    _check(version)


def _check(version: str) -> None:
    said = subprocess.run(
        [sys.executable, executable(version), "version", "--quiet"],
        capture_output=True,
        check=False,
        env={**os.environ, "HGRCPATH": "", "HGPLAIN": "1"},
    )
    if f"(version {version})".encode() not in said.stdout:
        stamp(version).unlink()
        raise SystemExit(
            f"Mercurial {version} was installed in {directory(version)}, but does not run: "
            f"{(said.stdout + said.stderr).decode(errors='replace')}"
        )


def _unpack_wheel(version: str, made: Path) -> None:
    _pip(
        "install", "--no-deps", "--only-binary", ":all:", "--target", made, f"mercurial=={version}"
    )
    (made / "bin" / "hg").rename(made / "hg")


def _build(scratch: Path, made: Path) -> None:
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"mercurial=={V2} --hash=sha256:{_SDIST_SHA256}\n")
    _pip("download", "--no-deps", "--no-binary", "mercurial", "-d", scratch, "-r", wanted)
    subprocess.run(["tar", "-xzf", f"mercurial-{V2}.tar.gz"], cwd=scratch, check=True)
    source = scratch / f"mercurial-{V2}"
    _let_it_compile(source / "mercurial" / "cext" / "pathencode.c")
    _pip("install", "--target", source, _SETUPTOOLS)
    if sys.version_info >= (3, 12):
        _stand_in_for_imp(source / "mercurial")
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace", "-j2"],
        cwd=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env={**os.environ, "FORCE_SETUPTOOLS": "1"},
    )
    made.mkdir()
    for name in _PACKAGES:
        (source / name).rename(made / name)
    if built.returncode:
        _keep_zstd_alone(made, built.stdout)


def _keep_zstd_alone(made: Path, log: bytes) -> None:
    # With Python 3.12 and later some C parts do not compile; zstd, which has no other form, does.
    for extension in made.rglob("*.so"):
        if not extension.name.startswith("zstd."):
            extension.unlink()
    found = any((made / "mercurial").glob("zstd.*.so"))
    if not found:
        (made / pure_mark(V2).name).write_bytes(log)
    _complain("zstd is there" if found else "tests of zstd will be skipped, and fail on CI", log)


def _complain(outcome: str, log: bytes) -> None:
    lines = "\n".join(
        f"    {line[:200]}" for line in log.decode(errors="replace").splitlines()[-6:]
    )
    _say(
        f"WARNING: not all C parts of Mercurial {V2} could be built, so it runs as Python alone, "
        f"slowly; {outcome}.\n"
        "WARNING: if the compiler or the headers of Python are missing (on Debian: `apt-get "
        f"install gcc libc6-dev python3-dev`), add them, remove {directory(V2)} and run this "
        f"again. The build ended with:\n{lines}"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _let_it_compile(pathencode: Path) -> None:
    # Py_SIZE stopped to be an lvalue in Python 3.10, after 5.9 was written.
    old, new = "Py_SIZE(newobj)--;", "Py_SET_SIZE(newobj, Py_SIZE(newobj) - 1);"
    text = pathencode.read_text()
    if text.count(old) != 2:
        raise SystemExit(f"{pathencode}: expected `{old}` twice; is this Mercurial {V2}?")
    pathencode.write_text(text.replace(old, new))


def _stand_in_for_imp(package: Path) -> None:
    # Python 3.12 dropped the module; 5.9.3 asks it one question unless it loads extensions by path.
    stand_in = "class imp:\n    is_frozen = staticmethod(lambda name: False)\n"
    for name in ("extensions.py", "utils/resourceutil.py"):
        module = package / name
        module.write_text(module.read_text().replace("import imp\n", stand_in, 1))


def _run_by_this_python(script: Path, *, eager: bool) -> None:
    first, rest = script.read_text().split("\n", 1)
    if not first.startswith("#!"):
        raise SystemExit(f"{script}: expected a script with an interpreter line, got {first!r}")
    if eager:
        rest = rest.replace("import sys\n", f"import sys\n{_EAGER}", 1)
    script.write_text(f"#!{sys.executable}\n{rest}")
    script.chmod(0o755)


def _pip(*args: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *args], check=True
    )


@contextmanager
def _alone() -> Iterator[None]:
    with (ROOT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
