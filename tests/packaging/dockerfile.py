# Law of this file: what is wrong with a Dockerfile, by the rules that count for ours. hadolint
# knows more, and is not everywhere.

from __future__ import annotations

import json
import re
from collections.abc import Iterator

Instruction = tuple[str, str]

# These take a list, so that no shell is process 1 and swallows SIGTERM, or need not be there.
_EXEC = ("ENTRYPOINT", "CMD")


def instructions(text: str) -> list[Instruction]:
    """The instructions with their words, without comments, each on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def faults(text: str) -> list[str]:
    """A sentence for each rule that is broken."""
    found = instructions(text)
    return [*_bases(found), *_runs(found), *_last_stage(found)]


def _bases(found: list[Instruction]) -> Iterator[str]:
    given = dict(rest.split("=", 1) for word, rest in found if word == "ARG" and "=" in rest)
    stages: set[str] = set()
    for word, rest in found:
        if word != "FROM":
            continue
        base, *more = rest.split()
        base = re.sub(r"\$\{(\w+)\}", lambda name: given.get(name[1], ""), base)
        if base not in stages and not re.search(
            r":\d+\.\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", base
        ):
            yield f"the base {base!r} is not pinned to a version"
        stages.update(more[1:])


def _runs(found: list[Instruction]) -> Iterator[str]:
    for word, rest in found:
        if word == "ADD":
            yield "ADD fetches and unpacks; use COPY"
        if word == "COPY" and re.match(r"(--\S+ )*\.{1,2}/? ", rest):
            yield "COPY of everything brings along what should not be there"
        if word == "RUN" and "apt-get install" in rest:
            if "--no-install-recommends" not in rest:
                yield "apt-get installs what is only recommended"
            if "rm -rf /var/lib/apt/lists/*" not in rest:
                yield "the lists of apt stay in the layer"
        if word == "RUN" and re.search(r"\bpip install\b(?!.*--no-cache-dir)", rest):
            yield "pip's cache stays in the layer"
        if word in {"ENV", "ARG"} and re.search(r"(?i)(password|secret|token|_key)\w*=", rest):
            yield f"{word} holds a secret, which whoever has the image can read"


def _last_stage(found: list[Instruction]) -> Iterator[str]:
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    stage = found[last:]
    words = dict(stage)
    user = words.get("USER", "root").partition(":")[0]
    if not user.isdigit() or user == "0":
        yield f"USER is {user!r}; write a number other than 0, which Kubernetes can check"
    for word in _EXEC:
        if word in words and not _is_list(words[word]):
            yield f"{word} is run by a shell, which keeps signals from it"
    health = words.get("HEALTHCHECK", "NONE")
    if not _is_list(health.partition("CMD ")[2]):
        yield "there is no HEALTHCHECK of the form CMD [...]"
    if re.search(r"\b(curl|wget)\b", health):
        yield "the image has neither curl nor wget"


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
