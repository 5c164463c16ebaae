"""Read docstrings as they are written here: an extension of griffe."""

from __future__ import annotations

import re
from typing import Any

import griffe

_FIRST_LINE_OF_RETURNS = re.compile(r"^(Returns:\n)( +)(\S.*)$", flags=re.MULTILINE)


class DocstringStyle(griffe.Extension):
    """Adapt the two sections that differ from Google's style.

    ``Example:`` is the section that Google calls ``Examples:``. ``Returns:`` contains only prose,
    whereas griffe takes what precedes the first colon of its first line for a type.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring before it is parsed."""
        if obj.docstring is not None:
            text = obj.docstring.value
            text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
            obj.docstring.value = _FIRST_LINE_OF_RETURNS.sub(_without_colon, text)


def _without_colon(match: re.Match[str]) -> str:
    """Move the word with the first colon to a second line, which is not searched for a type."""
    heading, indent, line = match.groups()
    before, colon, after = line.partition(":")
    start, space, word = before.rpartition(" ")
    if space:
        return f"{heading}{indent}{start}\n{indent}{word}{colon}{after}"
    if colon and not line.startswith("`"):
        return f"{heading}{indent}{before}&#58;{after}"
    return match[0]
