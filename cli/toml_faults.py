# Law of this file: a file that is no TOML is told of by the line and what TOML wants there. Nothing
# of the file is shown: what stands there may be a secret.

from __future__ import annotations

import re
import tomllib
from typing import Final

# What tomllib says of a place, of which TOML 1.0 (https://toml.io/en/v1.0.0) is the rule.
_PLACE: Final = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)
_QUOTES: Final = 'text stands in quotes, as in root = "/srv/git"'
_TWICE: Final = "this is set a second time; write it once"
_WORDS: Final = (
    ("Illegal character '\\n'", "text that begins with a quote must end with one on its line"),
    ("Illegal character '\\r'", "text that begins with a quote must end with one on its line"),
    ("Illegal character", "a character that TOML does not allow there; remove it"),
    ("Found invalid character", "a character that TOML does not allow there; remove it"),
    ("Unterminated string", "text that begins with a quote must end with one"),
    ("Unescaped", "a backslash means something in text; write two of them, or single quotes"),
    ("Escaped character", "no character has this number; write the character itself"),
    ("Invalid hex value", "hexadecimal digits follow \\x, \\u and \\U; for a backslash write two"),
    ("Invalid value", f"no value; {_QUOTES}, and numbers, true and false without"),
    ("Invalid date", "no date; text stands in quotes"),
    ("Invalid statement", "neither a setting (name = value) nor a table ([name])"),
    ("Invalid initial character", "no name of a setting; write name = value"),
    ("Expected '=' after a key", "after the name of a setting stands =, and then its value"),
    ("Expected ']]'", "the name of a table in a list ends with ]]"),
    ("Expected ']'", "the name of a table ends with ]"),
    ("Expected newline", "something follows the value; write one setting on a line"),
    ("Expected", "text that begins with a quote must end with one"),
    ("Unclosed array", "a list ends with ], and a comma stands between its values"),
    ("Unclosed inline table", "a table in a line ends with }, and a comma stands between settings"),
    ("Cannot", _TWICE),
    ("Duplicate", _TWICE),
)


def toml_fault(error: tomllib.TOMLDecodeError) -> str:
    """Where the file is no TOML, and what to write there."""
    match = _PLACE.fullmatch(str(error))
    if match is None:
        return "no TOML; write name = value, one on a line"
    what = match["what"]
    said = next(
        (ours for theirs, ours in _WORDS if what.startswith(theirs)), "no TOML from here on"
    )
    where = f"line {match['line']}, column {match['column']}" if match["line"] else "at its end"
    return f"{where}: {said}"
