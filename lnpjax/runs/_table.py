"""The table at the end of a run: losses and LNP components, at its start and at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from lnpjax._base.checks import import_extra
from lnpjax.runs._rows import ROWS, Row, columns
from lnpjax.runs._smoothing import exponential_moving_average

if TYPE_CHECKING:
    from rich.table import Table

SUMMARISED = ("chi_loss", "chi_net", "chi_pos")
"""The LNP components that a person sees at the end of a run."""
HEADINGS = ("", "start", "end", "change")


def summary_table(rows: Sequence[Row]) -> Table:
    """Tabulate losses and LNP components at the start and at the end of a run.

    The components are means over the first and the last window. Their standard error comes from the
    spread over the window's steps, which holds that of batches and probes, or from the probes where
    the window has a single step.

    Args:
        rows: the rows of the run.

    Returns:
        A `rich.table.Table`.

    Raises:
        ImportError: if rich is not installed (the extra "run").

    Example:
        >>> rows = [{"kind": "train", "step": step, "loss": 2.0 - step} for step in (0, 1)]
        >>> summary_table(rows).row_count
        1
    """
    table_module = import_extra("rich.table", extra="run", purpose="the table")
    table = table_module.Table(caption_justify="left", caption_style="dim")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    cells, notes = summary_cells(rows)
    for row in cells:
        table.add_row(*row)
    table.caption = "\n".join(notes) or None
    return table


def summary_cells(rows: Sequence[Row]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return what `summary_table` shows: the cells under `HEADINGS`, and lines of notes.

    Args:
        rows: the rows of the run.
    """
    train, validation, lnp = (columns(rows, kind) for kind in ("train", "validation", "lnp"))
    cells = []
    if train:
        smooth = exponential_moving_average(train["loss"])
        cells.append(_cells("training loss", _WindowMean(smooth[0]), _WindowMean(smooth[-1])))
    test = columns(rows, "test")
    for score in ("loss", "accuracy"):
        for name, scores in (("validation", validation), ("test", test)):
            if score in scores:
                cells.append(_score_cells(f"{name} {score}", scores[score]))
    if not lnp:
        return cells, []
    first, last = lnp["window"] == lnp["window"][0], lnp["window"] == lnp["window"][-1]
    for name in SUMMARISED:
        start, end = (_window_mean(lnp, name, window) for window in (first, last))
        cells.append(_cells(name, start, end))
    at_start, at_end = _steps(lnp["step"][first]), _steps(lnp["step"][last])
    readings = (f"{name:<9} {ROWS['lnp'].field(name).reading}" for name in SUMMARISED)
    return cells, [f"losses in nats; components at {at_start} and over {at_end}", *readings]


class _WindowMean(NamedTuple):
    """A mean over the measured steps of a window, or the one number that there is."""

    mean: float
    sem: float = math.nan

    def __str__(self) -> str:
        """Show the mean to as many digits as its standard error allows: `0.512 ± 0.003`."""
        if not (math.isfinite(self.sem) and 0 < self.sem < abs(self.mean)):
            return f"{self.mean:.3g}"
        exponent = math.floor(math.log10(abs(self.mean)))
        scaled = not -3 <= exponent <= 4
        unit = 10.0**exponent if scaled else 1.0
        digits = max(0, -math.floor(math.log10(self.sem / unit)))
        mean, sem = (f"{value / unit:.{digits}f}" for value in self)
        return f"({mean} ± {sem})e{exponent:+03d}" if scaled else f"{mean} ± {sem}"


def _window_mean(
    lnp: Mapping[str, np.ndarray], name: str, in_window: Bool[np.ndarray, " measured"]
) -> _WindowMean:
    values = lnp[name][in_window]
    values = values[np.isfinite(values)]
    if values.size == 0:
        return _WindowMean(math.nan)
    if values.size == 1:
        sems = lnp.get(f"{name}_sem")
        return _WindowMean(values[0], math.nan if sems is None else sems[in_window][0])
    return _WindowMean(values.mean(), values.std(ddof=1) / math.sqrt(values.size))


def _score_cells(name: str, values: np.ndarray) -> tuple[str, ...]:
    """Return the cells of a score: of a single one, which is that of the end, no change."""
    start, end = _WindowMean(values[0]), _WindowMean(values[-1])
    if len(values) == 1 and name.startswith("test"):  # usually there is only the one at the end
        return name, "", str(end), ""
    return _cells(name, start, end)


def _cells(name: str, start: _WindowMean, end: _WindowMean) -> tuple[str, ...]:
    ratio = end.mean / start.mean if start.mean else math.nan
    sign, factor = ("/", 1 / ratio) if 0 < ratio < 1 else ("x", ratio)
    change = f"{sign} {factor:,.0f}" if factor > 99 else f"{sign} {factor:.3g}"
    return name, str(start), str(end), change


def _steps(steps: Int[np.ndarray, " steps"]) -> str:
    first, last = int(steps[0]), int(steps[-1])
    return f"step {first}" if first == last else f"steps {first} to {last}"
