"""The terminal output during a run: a progress bar or plain lines, on standard error.

Progress is a courtesy: where nobody can see it any more, a run goes on without.
"""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lnpjax._base.checks import import_extra
from lnpjax._base.reporting import Reporter

T = TypeVar("T")


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
        self._accuracy = ""
        self._lost = self._stream is None

    def note(self, text: str) -> None:
        """Print a text."""
        if self._lost:
            return
        try:
            print(printable(text, self._stream), file=self._stream, flush=True)
        except (OSError, ValueError):  # a closed pipe or terminal, or a full disk
            self._lost = True

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
            f"step {step}/{self._steps}  loss {loss:.3f}{self._accuracy}  chi_pos {self._chi_pos}  "
            f"measured {self._measured}  {_duration(seconds)}, {_duration(left)} left"
        )

    def score(self, *, accuracy: float) -> None:
        """Print the accuracy with the lines that follow."""
        self._accuracy = _accuracy(accuracy)


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
                "loss {task.fields[loss]}{task.fields[accuracy]}  chi_pos {task.fields[chi_pos]}  "
                "measured {task.fields[measured]}"
            ),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            refresh_per_second=4,
        )
        self._measured = 0
        self._lost = False

    def note(self, text: str) -> None:
        """Print a text, dimmed."""
        self._print(text, style="dim")

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self._print(f"warning: {text}", style="yellow")

    def start(self, step: int, steps: int, *, measured: int = 0) -> None:
        """Show the bar."""
        self._measured = measured
        self._task = self._progress.add_task(
            "train",
            total=steps,
            completed=step,
            loss="-",
            accuracy="",
            chi_pos="-",
            measured=measured,
        )
        self._show(self._progress.start)

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        """Move the bar."""
        fields: dict[str, Any] = {"completed": step, "loss": f"{loss:.3f}"}
        if chi_pos is not None:
            self._measured += 1
            fields |= {"chi_pos": f"{chi_pos:.3g}", "measured": self._measured}
        self._show(self._progress.update, self._task, **fields)

    def score(self, *, accuracy: float) -> None:
        """Show the accuracy next to the loss."""
        self._show(self._progress.update, self._task, accuracy=_accuracy(accuracy))

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._show(self._progress.stop)

    def _print(self, text: str, style: str) -> None:
        text = printable(text, self._console.file)
        self._show(self._console.print, text, style=style, highlight=False, markup=False)

    def _show(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        if self._lost:
            return
        try:
            call(*arguments, **options)
        except (OSError, ValueError, SystemExit):  # rich wants to exit where a pipe is closed
            self._lost = True


class NotebookReporter(Reporter):
    """Show a progress bar below a notebook's cell, with notes and warnings under it.

    The bar is redrawn at most ten times a second, and is kept where the notebook is saved.

    Raises:
        ImportError: outside of notebooks, if IPython is not installed.

    Example:
        >>> isinstance(NotebookReporter(), Reporter)
        True
    """

    def __init__(self) -> None:
        self._display = import_extra("IPython.display", extra="test", purpose="a notebook's bar")
        self._texts: list[str] = []
        self._status, self._done, self._steps = "", 0, 0
        self._chi_pos, self._measured = "-", 0
        self._accuracy = ""
        self._drawn = -math.inf
        self._handle: Any = None

    def note(self, text: str) -> None:
        """Show a text below the bar."""
        self._texts.append(text)
        self._draw()

    def warn(self, text: str) -> None:
        """Show a warning below the bar."""
        self.note(f"warning: {text}")

    def start(self, step: int, steps: int, *, measured: int = 0) -> None:
        """Show the bar."""
        self._first, self._done, self._steps, self._measured = step, step, steps, measured
        self._began = time.perf_counter()
        self._draw()

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        """Move the bar."""
        if chi_pos is not None:
            self._chi_pos = f"{chi_pos:.3g}"
            self._measured += 1
        self._done = step
        seconds = time.perf_counter() - self._began
        left = seconds / max(step - self._first, 1) * (self._steps - step)
        self._status = (
            f"step {step}/{self._steps}  loss {loss:.3f}{self._accuracy}  chi_pos {self._chi_pos}  "
            f"measured {self._measured}  {_duration(left)} left"
        )
        if time.perf_counter() - self._drawn > 0.1:
            self._draw()

    def score(self, *, accuracy: float) -> None:
        """Show the accuracy next to the loss."""
        self._accuracy = _accuracy(accuracy)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._draw()

    def _draw(self) -> None:
        lines = [self._status, *self._texts]
        bar = f"<progress value={self._done} max={max(self._steps, 1)}></progress> "
        picture = {
            "text/plain": "\n".join(lines),
            "text/html": bar + "<br>".join(map(html.escape, lines)),
        }
        if self._handle is None:
            self._handle = self._display.display(picture, raw=True, display_id=True)
        else:
            self._handle.update(picture, raw=True)
        self._drawn = time.perf_counter()


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
    console = make_console(stderr=True)
    return bar(console) if console.is_terminal else lines()


def make_console(**options: Any) -> Any:
    """Return a `rich.console.Console` that raises an OSError where nobody reads its output.

    Args:
        **options: those of `rich.console.Console`.

    Raises:
        ImportError: if rich is not installed (the extra "run").

    Example:
        >>> make_console(width=80).width
        80
    """
    rich = import_extra("rich.console", extra="run", purpose="progress and tables")

    class Console(rich.Console):  # type: ignore[name-defined]
        def on_broken_pipe(self) -> None:  # rich's ends the process with status 1
            raise BrokenPipeError("nobody reads the output")

    return Console(**options)


def printable(text: str, stream: Any) -> str:
    r"""Return a text with escapes for what a stream has no characters for.

    Example:
        >>> import io
        >>> printable("0.5 ± 0.1", io.TextIOWrapper(io.BytesIO(), "ascii"))
        '0.5 \\xb1 0.1'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _accuracy(share: float) -> str:
    return f"  accuracy {share:.1%}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
