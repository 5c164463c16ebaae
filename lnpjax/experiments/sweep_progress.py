"""What a person sees of a sweep while it goes on: a bar in a terminal, lines in a log."""

from __future__ import annotations

import sys
from typing import Any

from lnpjax._checks import import_extra


class SweepProgress:
    """Is told how a sweep goes; this one keeps it to itself.

    Example:
        >>> progress = SweepProgress()
        >>> progress.start(2)
        >>> progress.begin("first")
        >>> progress.done("first", seconds=1.0)
        >>> progress.stop()
    """

    def start(self, num_units: int) -> None:
        """The sweep begins, with that many units in all."""

    def begin(self, name: str) -> None:
        """A unit is about to be computed."""

    def done(self, name: str, *, seconds: float | None = None) -> None:
        """A unit is there; `seconds` is None where it was on disk."""

    def stop(self) -> None:
        """The sweep has ended."""


class SweepLines(SweepProgress):
    """One line per computed unit.

    Example:
        >>> progress = SweepLines(sys.stdout)
        >>> progress.start(3)
        >>> progress.done("first")
        >>> progress.done("second", seconds=1.25)
        [2/3] second: 1.2 s
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream

    def start(self, num_units: int) -> None:
        """Begin to count."""
        self._done, self._num_units = 0, num_units

    def done(self, name: str, *, seconds: float | None = None) -> None:
        """Count, and print what was computed."""
        self._done += 1
        if seconds is not None:
            text = f"[{self._done}/{self._num_units}] {name}: {seconds:.1f} s"
            print(text, file=self._stream, flush=True)


class SweepBar(SweepProgress):
    """A progress bar: units done, the one at work, and the time left.

    Args:
        console: a `rich.console.Console`.

    Raises:
        ImportError: rich is not installed (the extra "run").
    """

    def __init__(self, console: Any) -> None:
        progress = import_extra("rich.progress", extra="run", purpose="the progress bar")
        self._progress = progress.Progress(
            progress.TextColumn("{task.completed}/{task.total}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.description}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("elapsed,"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            refresh_per_second=2,
        )

    def start(self, num_units: int) -> None:
        """Show the bar."""
        self._task = self._progress.add_task("", total=num_units)
        self._progress.start()

    def begin(self, name: str) -> None:
        """Show what is at work."""
        self._progress.update(self._task, description=name)

    def done(self, name: str, *, seconds: float | None = None) -> None:  # noqa: ARG002
        """Move the bar."""
        self._progress.advance(self._task)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def terminal_progress() -> SweepProgress:
    """A progress bar if standard error is a terminal, else lines.

    Raises:
        ImportError: rich is not installed (the extra "run").
    """
    rich = import_extra("rich.console", extra="run", purpose="the progress bar")
    console = rich.Console(stderr=True)
    return SweepBar(console) if console.is_terminal else SweepLines()
