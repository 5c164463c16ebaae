"""What commands check about files and options before they work."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import Any

from lnpjax._base.checks import check_count, import_extra, require
from lnpjax.runs import Row, Run
from lnpjax.runs._rows import CONFIG_FILE, METRICS_FILE, SHARED, STEP

NEEDED = {
    "train": ("loss",),
    "validation": ("loss",),
    "test": ("loss",),
    "lnp": ("window", "chi_loss", "chi_net", "chi_pos"),
}
"""Numbers without which rows of a kind cannot be shown."""
COUNTS = tuple(field.name for field in SHARED)
"""What every row counts; tokens and FLOPs, unless all rows of a run leave them open."""
SECTIONS = ("model", "data", "training", "measurement", "start")


def open_to_read(folder: str | os.PathLike[str], *, curves: bool = True) -> Run:
    """Open a run that somebody may have edited.

    Args:
        folder: the run's.
        curves: whether its curves are shown, so that its rows must have what that needs.

    Raises:
        ValueError: if a row or the configuration lacks what is shown; the message names the file.
        OSError: if the run cannot be read.
    """
    run = Run.open(folder)
    rows = run.rows() if curves else []
    open_counts = {name for name in COUNTS if all(_is_open(row, name) for row in rows)}
    for number, row in enumerate(rows, 1):
        for name in set(_lacking(row)) - open_counts:
            expected = f"a number as {name!r} of this {row['kind']} row"
            where = f"{run.path / METRICS_FILE}, line {number}"
            require(False, where, expected=expected, got=repr(row.get(name)))
    where = str(run.path / CONFIG_FILE)
    for name in SECTIONS:
        section = run.config.get(name, {})
        expected = f"an object as {name!r}"
        require(isinstance(section, Mapping), where, expected=expected, got=repr(section))
    for name in ("num_parameters", "checkpoints_kept"):
        check_count(f"{where}: {name}", run.config.get(name, 1))
    return run


def warn_of_changed_rows(*runs: Run) -> None:
    """Say which runs have rows that somebody changed, or that changed on the disk."""
    for run in runs:
        try:
            run.check_rows()
        except ValueError as error:
            warnings.warn(f"{error}; shown as they are", stacklevel=2)


def _is_open(row: Row, count: str) -> bool:
    """Return whether a row says that it does not know a count."""
    value = row.get(count)
    return count != STEP.name and isinstance(value, float) and isnan(value)


def _lacking(row: Row) -> Iterator[str]:
    if row["kind"] not in NEEDED:
        return
    for name in (*COUNTS, *NEEDED[row["kind"]]):
        value = row.get(name)
        if not isinstance(value, int | float) or (name in COUNTS and not 0 <= value < 2**100):
            yield name


def figure_file(name: str) -> Path:
    """Return where a figure goes: a path with a suffix that says its format.

    Args:
        name: as it was given; without a suffix, it is a PNG file.

    Raises:
        ValueError: if there is no such format, or `name` is a folder.

    Example:
        >>> figure_file("both").name
        'both.png'
    """
    path = Path(name).absolute()
    require(not path.is_dir(), "--out", expected="a file", got=f"the folder {name}")
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    bases = import_extra("matplotlib.backend_bases", extra="run", purpose="figures")
    formats = sorted(bases.FigureCanvasBase.get_supported_filetypes())
    expected = f"a file that ends in one of {', '.join(formats)}"
    require(path.suffix[1:].lower() in formats, "--out", expected=expected, got=name)
    return path


def refuse_unused(command: Any, with_what: str, *names: str) -> None:
    """Refuse options that would have no effect.

    Args:
        command: the command, a dataclass.
        with_what: where they have one, for the message.
        *names: of the options.

    Raises:
        ValueError: if one is not at its default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(command)}
    for name in names:
        value = getattr(command, name)
        option = f"--{name.replace('_', '-')}"
        require(value == defaults[name], option, expected=f"{with_what} with it", got=value)
