"""A run as a page: its curves, its settings, and what was wrong with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lnpjax.inspection._folder import FIGURES, NUMBERS_FILE, read_inspection
from lnpjax.inspection._page import Picture, Section, about_table, page
from lnpjax.inspection._reports import flags_by_meaning, inspection_sections
from lnpjax.inspection._tables import Table
from lnpjax.plotting import plot_run
from lnpjax.runs import Run
from lnpjax.runs._lock import refuse_links_in
from lnpjax.runs._rows import POSITION_FILE, flatten
from lnpjax.runs._table import HEADINGS, summary_cells
from lnpjax.status import Status, describe_status

INSPECTION = "inspect"
"""The folder of the inspection, in that of the run."""
_READINGS = {
    "components": "Top left: the loss. The other panels: how wrong the predictions are "
    "(chi_loss), how strongly the outputs respond to the parameters (chi_net), and where in the "
    "spectrum of the neural tangent kernel the network learns (chi_pos). Where "
    "chi_pos falls by orders of magnitude, learning has moved from the dominant modes into the "
    "spectral tail. Hollow triangles: negative, a step on one batch raises the loss on another.",
    "accuracy": "Which share of the validation and of the test set is put into its class. It may "
    "stand still where the loss still moves.",
    "groups": "Left: where each group of parameters learns, in its own kernel. Right: its share of "
    "the response to parameters.",
    "position": "At each measured step, how the loss gradient is spread over modes by their "
    "strength: dark is much. The orange line is the mean, chi_pos. Where it leaves the median far "
    "below, a few strong modes make the mean.",
    "lens": "How many directions activations and per-sample gradients use as training goes on, and "
    "how fast their spectra fall.",
}


class _Flagged(NamedTuple):
    """A number of the run that was flagged.

    Attributes:
        step: at which.
        of: what it is of.
        status: the flags.
    """

    step: int
    of: str
    status: int


def run_report(run: Run) -> str:
    """Return a run as a page of HTML; its figures are drawn again, into the run.

    Holds its curves, its settings, the flags that were raised and when, and the inspection in its
    folder ``inspect``, if there is one (`lnpjax inspect RUN`).

    Args:
        run: the run.

    Returns:
        A whole page that refers to nothing else.

    Raises:
        ValueError: if the run has no curves, or its inspection is damaged.
        OSError: if a file of it is a link, or cannot be read.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp(), {"model": {"width": 8}}) as run:
        ...     for step in range(2):
        ...         row = {"kind": "train", "step": step, "flops": 1e9 * step, "loss": 2.0 - step}
        ...         run.append(row)
        ...     text = run_report(run)
        >>> "model/width" in text, text.count("<img")
        (True, 1)
    """
    folders = [run.path / FIGURES, run.path / INSPECTION, run.path / INSPECTION / FIGURES]
    for folder in folders:
        refuse_links_in(folder)
    plot_run(run)
    cells, notes = summary_cells(run.rows())
    curves = Section(
        "curves",
        "Curves",
        tables=(Table("From start to end", HEADINGS, tuple(cells), "; ".join(notes)),),
        pictures=tuple(_pictures(run)),
    )
    sections = [curves, _flag_section(run), *_inspected(run.path / INSPECTION), _settings(run)]
    rows = run.rows("train")
    subtitle = f"{len(rows):,} training steps" if rows else "no training steps"
    return page(f"Run {run.path.resolve().name}", subtitle, sections)


def _pictures(run: Run) -> Iterator[Picture]:
    for name, reading in _READINGS.items():
        file = run.figure_path(name)
        if file.exists():
            yield Picture(file.read_bytes(), name, reading)


def _flag_section(run: Run) -> Section:
    flagged = list(_flagged(run))
    measured = len(run.rows("lnp"))
    reading = (
        f"{measured:,} steps were measured. Where something was wrong with a number, its flag says "
        "what, and what to do about it."
    )
    if not flagged:
        reading += " No flag was raised."
        return Section("flags", "Flags", reading)
    places = {f"{one.of} at {one.step}": one.status for one in flagged}
    by_place = {f"{one.of} at {one.step}": one for one in flagged}
    rows = []
    for flag, names in flags_by_meaning(places).items():
        raised = [by_place[name] for name in names]
        steps = [one.step for one in raised]
        of = ", ".join(dict.fromkeys(one.of for one in raised))
        rows.append((flag.name or "", str(len(steps)), str(min(steps)), str(max(steps)), of))
    headings = ("flag", "times", "first step", "last step", "of")
    meanings = tuple(
        f"{Status(flag).name}: {describe_status(flag)}." for flag in flags_by_meaning(places)
    )
    return Section("flags", "Flags", reading, meanings, (Table("Raised", headings, tuple(rows)),))


def _flagged(run: Run) -> Iterator[_Flagged]:
    """Find every number that has a flag: of rows, of their spectra, of distributions."""
    for row in run.rows():
        for name, status in flatten(row).items():
            if name.split("/")[-1] == "status" and isinstance(status, int) and status:
                of = name.removesuffix("status").rstrip("/") or row["kind"]
                yield _Flagged(int(row["step"]), of, status)
    older = not run.rows("distribution")  # whose distributions are in files alone
    for name in POSITION_FILE.among(run.spectra()) if older else []:
        arrays = run.spectrum(name)
        if "status" in arrays and int(arrays["status"]):
            yield _Flagged(int(arrays["step"]), "distribution", int(arrays["status"]))


def _inspected(folder: Path) -> list[Section]:
    if not (folder / NUMBERS_FILE).exists():
        return []
    document = read_inspection(folder)
    said = f"{document['name']}, made {document['made']}. What follows is of that one point."
    tables = tuple(about_table(title, values) for title, values in document["about"].items())
    head = Section("inspection", "Inspection", said, tables=tables)
    return [head, *inspection_sections(document, folder / FIGURES)]


def _settings(run: Run) -> Section:
    tables = [about_table("Configuration", flatten(run.config))]
    for number, session in enumerate(run.sessions(), 1):
        tables.append(about_table(f"Process {number}", _shown(session)))
    return Section("settings", "Settings", tables=tuple(tables))


def _shown(session: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: f"{value:.4g}" if isinstance(value, float) else value
        for name, value in flatten(session).items()
    }
