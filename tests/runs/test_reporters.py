from __future__ import annotations

import io
import re

import pytest
import rich.console

from lnpjax._base.reporting import Reporter
from lnpjax.runs import BarReporter, LineReporter
from lnpjax.runs._reporters import make_console


def follow(reporter: Reporter, first: int = 0, steps: int = 40) -> None:
    reporter.start(first, steps, measured=first)
    for step in range(first, steps):
        reporter.update(step + 1, loss=4.0 - step / steps, chi_pos=0.25 if step % 8 == 0 else None)
    reporter.stop()


def test_lines_mark_every_tenth() -> None:
    stream = io.StringIO()
    follow(LineReporter(stream))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [f"{n}/40" for n in range(4, 41, 4)]
    assert re.fullmatch(
        r"step 40/40  loss 3.025  chi_pos 0.25  measured 5  \d+ s, 0 s left", lines[-1]
    )


def test_lines_go_on_where_a_run_was_left() -> None:
    stream = io.StringIO()
    follow(LineReporter(stream), first=30)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "32/40",
        "36/40",
        "40/40",
    ]


def test_a_run_shorter_than_ten_steps_has_a_line_for_each() -> None:
    stream = io.StringIO()
    follow(LineReporter(stream), steps=3)
    assert len(stream.getvalue().splitlines()) == 3


def test_the_bar_ends_at_the_last_step() -> None:
    stream = io.StringIO()
    console = rich.console.Console(file=stream, force_terminal=True, width=120)
    reporter = BarReporter(console)
    reporter.warn("[odd] text")
    follow(reporter)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()[-1]
    for part in ("step 40/40", "loss 3.025", "chi_pos 0.25", "measured 5", "0:00:00 left"):
        assert part in last
    assert "warning: [odd] text" in stream.getvalue()


class Broken(io.StringIO):
    """A pipe that nobody reads any more, or a full disk."""

    def write(self, text: str) -> int:
        raise BrokenPipeError("nobody reads this")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def drive(reporter: Reporter) -> None:
    reporter.note("compiling")
    reporter.start(0, 10)
    for step in range(1, 11):
        reporter.update(step, loss=2.5, chi_pos=0.1 if step % 2 else None)
    reporter.warn("careful ± 1")
    reporter.stop()


@pytest.mark.parametrize("stream", [Broken(), Full()])
def test_output_that_fails_stops_nothing(stream: io.StringIO) -> None:
    closed = io.StringIO()
    closed.close()
    for broken in (stream, closed):
        drive(LineReporter(broken))
        drive(BarReporter(make_console(file=broken, force_terminal=True, width=80)))


@pytest.mark.parametrize("width", [1, 3, 20])
def test_a_narrow_terminal_stops_nothing(width: int) -> None:
    drive(BarReporter(rich.console.Console(file=io.StringIO(), force_terminal=True, width=width)))


def test_an_ascii_terminal_gets_escapes() -> None:
    octets = io.BytesIO()
    screen = io.TextIOWrapper(octets, "ascii")
    drive(LineReporter(screen))
    drive(BarReporter(make_console(file=screen, force_terminal=True, width=80)))
    assert octets.getvalue().count(b"careful \\xb1 1") == 2
