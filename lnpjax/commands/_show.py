"""How the commands show paths and tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lnpjax._base.checks import import_extra
from lnpjax.commands._exit import silence_output
from lnpjax.runs._reporters import make_console


def shown(path: Path) -> str:
    """Return a path as short as possible for someone in the current folder.

    Example:
        >>> shown(Path.cwd() / "runs" / "small")
        'runs/small'
    """
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def console() -> Any:
    """Return a `rich.console.Console` that prints to standard output.

    Raises:
        ImportError: if rich is not installed (the extra "run").
    """
    return make_console()


@contextlib.contextmanager
def courtesy() -> Iterator[None]:
    """Print what a command can do without: go on where standard output is closed, or full.

    Example:
        >>> with courtesy():
        ...     print("done")
        done
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        silence_output()
    except ValueError:
        if not sys.stdout.closed:
            raise


def table(title: str, headings: tuple[str, ...], *, no_wrap: bool = False) -> Any:
    """Return a `rich.table.Table` without rows.

    The first column, and those without a heading, are aligned to the left, others to the right.

    Args:
        title: above the table.
        headings: of the columns.
        no_wrap: whether cells keep to one line.

    Raises:
        ImportError: if rich is not installed (the extra "run").

    Example:
        >>> [column.justify for column in table("Speed", ("run", "tokens/s")).columns]
        ['left', 'right']
    """
    rich = import_extra("rich.table", extra="run", purpose="the table")
    box = import_extra("rich.box", extra="run", purpose="the table").SIMPLE
    empty = rich.Table(
        title=title, title_justify="left", title_style="bold", box=box, pad_edge=False
    )
    empty.padding = (0, 1, 0, 0)
    for number, heading in enumerate(headings):
        justify = "right" if number and heading else "left"
        empty.add_column(heading, justify=justify, no_wrap=no_wrap)
    return empty
