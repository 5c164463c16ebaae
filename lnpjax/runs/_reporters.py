"""The terminal output of a run: a progress bar or plain lines during it, a table at its end.

Progress, notes and warnings go to standard error, the table to standard output.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from lnpjax._base.checks import import_extra
from lnpjax._base.reporting import Reporter
from lnpjax.runs._rows import ROWS, Row, columns
from lnpjax.runs._smoothing import exponential_moving_average

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")
SUMMARISED = ("chi_loss", "chi_net", "chi_pos")
"""The LNP components that a person sees at the end of a run."""


class LineReporter(Reporter):
    """Print a line for every tenth of a run: for logs, where a progress bar would be a mess.

    Args:
        stream: where to print; standard error if None.

    Example:
        >>> import sys
        >>> reporter = LineReporter(sys.stdout)
        >>> reporter.note("compiling")
        compiling
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._chi_pos = "-"

    def note(self, text: str) -> None:
        """Print a text."""
        print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.note(f"warning: {text}")

    def start(self, step: int, steps: int, *, measured: int = 0) -> None:
        """Begin to count."""
        self._first, self._steps, self._measured = step, steps, measured
        self._began = time.perf_counter()

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        """Print a line if another tenth is done."""
        if chi_pos is not None:
            self._chi_pos = f"{chi_pos:.3g}"
            self._measured += 1
        if 10 * step // self._steps == 10 * (step - 1) // self._steps:
            return
        seconds = time.perf_counter() - self._began
        left = seconds / (step - self._first) * (self._steps - step)
        self.note(
            f"step {step}/{self._steps}  loss {loss:.3f}  chi_pos {self._chi_pos}  "
            f"measured {self._measured}  {_duration(seconds)}, {_duration(left)} left"
        )


class BarReporter(Reporter):
    """Show a progress bar in a terminal: step, loss, chi_pos, measurements and time left.

    Args:
        console: a `rich.console.Console`.

    Raises:
        ImportError: if rich is not installed (the extra "run").

    Example:
        >>> import io
        >>> import rich.console
        >>> screen = io.StringIO()
        >>> reporter = BarReporter(rich.console.Console(file=screen, width=100))
        >>> reporter.start(0, 1)
        >>> reporter.update(1, loss=2.5, chi_pos=None)
        >>> reporter.stop()
        >>> "step 1/1" in screen.getvalue()
        True
    """

    def __init__(self, console: Any) -> None:
        progress = import_extra("rich.progress", extra="run", purpose="the progress bar")
        self._console = console
        self._progress = progress.Progress(
            progress.TextColumn("step {task.completed}/{task.total}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn(
                "loss {task.fields[loss]}  chi_pos {task.fields[chi_pos]}  "
                "measured {task.fields[measured]}"
            ),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            refresh_per_second=4,
        )
        self._measured = 0

    def note(self, text: str) -> None:
        """Print a text, dimmed."""
        self._console.print(text, style="dim", highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def start(self, step: int, steps: int, *, measured: int = 0) -> None:
        """Show the bar."""
        self._measured = measured
        self._task = self._progress.add_task(
            "train",
            total=steps,
            completed=step,
            loss="-",
            chi_pos="-",
            measured=measured,
        )
        self._progress.start()

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        """Move the bar."""
        fields: dict[str, Any] = {"completed": step, "loss": f"{loss:.3f}"}
        if chi_pos is not None:
            self._measured += 1
            fields |= {"chi_pos": f"{chi_pos:.3g}", "measured": self._measured}
        self._progress.update(self._task, **fields)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def terminal_reporter() -> Reporter:
    """Return a progress bar if standard error is a terminal, else plain lines.

    Raises:
        ImportError: if rich is not installed (the extra "run").

    Example:
        >>> reporter = terminal_reporter()
        >>> isinstance(reporter, BarReporter | LineReporter)
        True
    """
    return for_terminal(BarReporter, LineReporter)


def for_terminal(bar: Callable[[Any], T], lines: Callable[[], T]) -> T:
    """Return what shows progress on standard error.

    Args:
        bar: makes it for a terminal, from a `rich.console.Console`.
        lines: makes it for anything else, such as a log.

    Raises:
        ImportError: if rich is not installed (the extra "run").

    Example:
        >>> for_terminal(BarReporter, LineReporter).stop()
    """
    rich = import_extra("rich.console", extra="run", purpose="the progress bar")
    console = rich.Console(stderr=True)
    return bar(console) if console.is_terminal else lines()


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
    train, validation, lnp = (columns(rows, kind) for kind in ("train", "validation", "lnp"))
    table = table_module.Table(caption_justify="left", caption_style="dim")
    for heading in ("", "start", "end", "change"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    if train:
        smooth = exponential_moving_average(train["loss"])
        _add_row(table, "training loss", _WindowMean(smooth[0]), _WindowMean(smooth[-1]))
    if validation:
        losses = validation["loss"]
        _add_row(table, "validation loss", _WindowMean(losses[0]), _WindowMean(losses[-1]))
    if not lnp:
        return table
    first, last = lnp["window"] == lnp["window"][0], lnp["window"] == lnp["window"][-1]
    for name in SUMMARISED:
        _add_row(table, name, _window_mean(lnp, name, first), _window_mean(lnp, name, last))
    at_start, at_end = _steps(lnp["step"][first]), _steps(lnp["step"][last])
    readings = (f"{name:<9} {ROWS['lnp'].field(name).reading}" for name in SUMMARISED)
    table.caption = "\n".join(
        [f"losses in nats; components at {at_start} and over {at_end}", *readings]
    )
    return table


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


def _add_row(table: Table, name: str, start: _WindowMean, end: _WindowMean) -> None:
    ratio = end.mean / start.mean if start.mean else math.nan
    sign, factor = ("/", 1 / ratio) if 0 < ratio < 1 else ("x", ratio)
    table.add_row(
        name,
        str(start),
        str(end),
        f"{sign} {factor:,.0f}" if factor > 99 else f"{sign} {factor:.3g}",
    )


def _steps(steps: Int[np.ndarray, " steps"]) -> str:
    first, last = int(steps[0]), int(steps[-1])
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
