# Law of this file: `python -m tests.fuzz` looks for bytes that a parser cannot stand; what it finds
# it leaves where it says, and its status tells.

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CORPUS = Path(".fuzz")


def main(arguments: list[str]) -> int:
    """Fuzz one target, or all of them one after another; 0 if nothing was found."""
    ours, separator, theirs = _split(arguments)
    parser = argparse.ArgumentParser(
        prog="tests.fuzz", description="Fuzz the parsers of wire.hg.", epilog="-- ATHERIS ARGUMENTS"
    )
    parser.add_argument("name", nargs="?", help="of the target; all if it is left out")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where inputs are kept")
    parser.add_argument("--list", action="store_true", help="say which targets there are")
    options = parser.parse_args(ours)
    try:
        import atheris  # noqa: PLC0415 - an extra; its absence is said in words
    except ImportError:
        _say("tests.fuzz: atheris is not installed; install the extra 'fuzz'")
        return 2
    # Coverage is counted in what is imported here, so nothing of it may be imported before.
    with atheris.instrument_imports(include=["wire"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415
    if options.list:
        _say("\n".join(TARGETS))
        return 0
    if options.name is None:
        return _all([*TARGETS], ours, separator + theirs)
    if options.name not in TARGETS:
        parser.error(f"there is no target {options.name!r}, but {', '.join(TARGETS)}")
    target = TARGETS[options.name]
    corpus = options.corpus / options.name
    corpus.mkdir(parents=True, exist_ok=True)
    # Files to be run once more stand alone: with a folder beside them they would be none.
    inputs = [] if any(Path(each).is_file() for each in theirs) else [str(corpus)]
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    found = f"-artifact_prefix={options.corpus}/{options.name}-"
    limits = [f"-max_total_time={options.seconds}", "-rss_limit_mb=1024", "-timeout=20"]
    atheris.Setup([sys.argv[0], found, *limits, *theirs, *inputs], target.entry)
    atheris.Fuzz()  # ends the process
    return 0


def _say(words: str) -> None:
    """Tell the person at the terminal; the fuzzer's own words go there too."""
    sys.stderr.write(f"{words}\n")


def _split(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What is before a ``--``, it, and what is after it."""
    if "--" not in arguments:
        return arguments, [], []
    place = arguments.index("--")
    return arguments[:place], ["--"], arguments[place + 1 :]


def _all(names: list[str], ours: list[str], theirs: list[str]) -> int:
    """Each target in a process of its own, since a fuzzer ends its process."""
    failed = [
        name
        for name in names
        if subprocess.run(
            [sys.executable, "-m", "tests.fuzz", name, *ours, *theirs], check=False
        ).returncode
    ]
    _say(f"tests.fuzz: {len(names)} targets, findings in: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
