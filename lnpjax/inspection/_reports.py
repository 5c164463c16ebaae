"""An inspection as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lnpjax.inspection._page import Picture, Section, about_table, page
from lnpjax.inspection._parts import PARTS, Part
from lnpjax.inspection._tables import tables_of
from lnpjax.status import Status, describe_status

Document = Mapping[str, Any]


def inspection_report(document: Document, figures: Path) -> str:
    """Return an inspection as a page of HTML.

    Args:
        document: what `read_inspection` returns.
        figures: the folder of its figures.

    Returns:
        A whole page that refers to nothing else.

    Example:
        >>> document = {"name": "a", "made": "now", "about": {}, "environment": {}, "parts": {}}
        >>> "Inspection of a" in inspection_report(document, Path())
        True
    """
    title = f"Inspection of {document['name']}"
    about = Section("about", "What was inspected", tables=_about(document))
    made = Section("made", "Made with", tables=(_environment(document),))
    return page(
        title, f"made {document['made']}", [about, *inspection_sections(document, figures), made]
    )


def inspection_sections(document: Document, figures: Path) -> Iterator[Section]:
    """Make the sections of an inspection: one for each part, measured or not."""
    for name, part in PARTS.items():
        yield _section(part, document["parts"].get(name), figures)


def _about(document: Document) -> tuple[Any, ...]:
    return tuple(about_table(heading, values) for heading, values in document["about"].items())


def _environment(document: Document) -> Any:
    return about_table("Versions and device", document["environment"])


def _section(part: Part, record: Document | None, figures: Path) -> Section:
    section = Section(part.name, part.title, part.reading)
    if record is None:
        return section._replace(warnings=("Not measured.",))
    if "error" in record:
        return section._replace(warnings=(f"This could not be measured. {record['error']}",))
    failed = [
        f"The figure {name!r} could not be drawn. {error}"
        for name, error in record["figures_failed"].items()
    ]
    return section._replace(
        warnings=(*flags_in_words(record["flags"]), *failed),
        tables=tuple(tables_of(part.name, record["numbers"])),
        pictures=tuple(
            Picture((figures / f"{figure.name}.png").read_bytes(), figure.name, figure.reading)
            for figure in part.figures
            if figure.name in record["figures"]
        ),
    )


def flags_by_meaning(flags: Mapping[str, int]) -> dict[Status, list[str]]:
    """Return what each flag was raised for.

    Args:
        flags: `lnpjax.Status` flags, by what they are of.
    """
    raised: dict[Status, list[str]] = {}
    for name, status in flags.items():
        for flag in Status(int(status)):
            raised.setdefault(flag, []).append(name)
    return raised


def flags_in_words(flags: Mapping[str, int]) -> Iterator[str]:
    """Say what each flag means, once, and what it was raised for.

    Args:
        flags: `lnpjax.Status` flags, by what they are of.
    """
    for flag, names in flags_by_meaning(flags).items():
        yield f"{', '.join(names)}: {describe_status(flag)}."
