# Law of this file: what a server says of itself, on one screen.

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.call_shown import shown
from cli.tables import table
from client.address import shown as shown_url
from client.errors import printable
from client.targets import unusable
from wire.hg.messages import sorted_names

if TYPE_CHECKING:
    from client import Repository
    from wire.hg.cbor import Value
    from wire.hg.handshake import AdvertisedTarget


def listing(repository: Repository) -> str:
    """The commands with their arguments, and the targets of redirects."""
    commands = repository.descriptor.get(b"commands")
    rows = [
        (_text(name), ", ".join(sorted(map(_text, api.permissions))), " ".join(_arguments(entry)))
        for name, api in sorted(repository.api.commands.items())
        for entry in [commands.get(name) if isinstance(commands, dict) else None]
    ]
    parts = [f"{repository.url}\n", table(("command", "needs", "arguments"), rows, frozenset())]
    targets = repository.api.targets
    if targets:
        header = ("target", "protocol", "locations begin with", "")
        parts.append(table(header, [_target(target) for target in targets], frozenset()))
    else:
        parts.append("no targets of redirects: all answers are sent inline\n")
    if repository.api.encodings:
        names = ", ".join(map(_text, repository.api.encodings))
        parts.append(f"requests may be encoded with {names}\n")
    return "\n".join(parts)


def _arguments(entry: Value) -> Iterator[str]:
    args = entry.get(b"args") if isinstance(entry, dict) else None
    for name, fields in sorted(args.items(), key=str) if isinstance(args, dict) else ():
        if not isinstance(name, bytes) or not isinstance(fields, dict):
            continue
        kind = fields.get(b"type")
        word = f"{_text(name)}={_text(kind).upper() if isinstance(kind, bytes) else 'VALUE'}"
        valid = sorted_names(fields.get(b"validvalues"))
        if valid:
            word += f"({','.join(map(_text, valid))})"
        if fields.get(b"required") is True:
            yield word
        else:
            default = fields.get(b"default")
            yield f"[{word}]" if not default else f"[{word}, else {shown(default)}]"


def _target(target: AdvertisedTarget) -> tuple[str, str, str, str]:
    notes = []
    if target.tls_versions:
        notes.append(f"TLS {', '.join(target.tls_versions)}")
    if target.sni_required:
        notes.append("SNI")
    reason = unusable(target)
    if reason is not None:
        notes.append(f"cannot be used: {reason}")
    uris = ", ".join(map(shown_url, target.uris))
    fields = (target.name, target.protocol, uris, "; ".join(notes))
    name, protocol, where, note = map(printable, fields)
    return name, protocol, where, note


def _text(name: bytes) -> str:
    return printable(name.decode("utf-8", "replace"))
