"""Rows of results as text."""

from __future__ import annotations

MISSING = "-"


def cell(value, form):
    """A value as text; what could not be measured here, nan or JSON's null, shows as a dash."""
    return MISSING if value is None or value != value else format(value, form)


def render(rows, *, title, label, columns):
    """One line per row under a title.

    `label` makes a row's name from it; `columns` maps a heading to a field and its format.
    """
    lines = [["", *columns]]
    lines += [[label(row), *(cell(row[f], form) for f, form in columns.values())] for row in rows]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = [title]
    for name, *cells in lines:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        text.append("  ".join([name.ljust(first), *padded]).rstrip())
    return "\n".join(text)
