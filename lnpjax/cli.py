"""The command `lnpjax`."""

from __future__ import annotations

import contextlib
import platform
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import jax

from lnpjax._base.allocation import keep_freed_memory
from lnpjax._base.checks import import_extra
from lnpjax._version import __version__
from lnpjax.commands._config_file import named, options_before
from lnpjax.commands._exit import Exit, explain
from lnpjax.commands.compare import Compare
from lnpjax.commands.export import Export
from lnpjax.commands.inspect import Inspect
from lnpjax.commands.plot import Plot
from lnpjax.commands.report import Report
from lnpjax.commands.reproduce import Reproduce
from lnpjax.commands.spectrum import Spectrum
from lnpjax.commands.train import Train
from lnpjax.commands.validate import Validate
from lnpjax.pretraining.config import RECIPES

DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the command's name; those of the process if None. ``--version``
            alone prints the versions of this library and of JAX, and the devices. ``--debug``
            anywhere raises errors instead of explaining them in a line.

    Returns:
        The exit status: 0; 1 for a bug, whose traceback is in a file; 2 for bad input, after one
        line on standard error; 3 if training diverged; 4 if `lnpjax validate` found a disagreement;
        128 plus the signal's number if a signal ended it.

    Raises:
        SystemExit: with status 2, for invalid arguments; with 0, for `--help`.

    Example:
        >>> main(["--version"])
        lnpjax ...
        jax ..., jaxlib ..., flax ...
        Python ..., ... cpu ...
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given
    _print_anything()
    if arguments is None:
        sys.unraisablehook = ignore_closed_loops
        keep_freed_memory()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            status = _command([argument for argument in given if argument != DEBUG])
            if sys.stdout is not None:
                sys.stdout.flush()
        except KeyboardInterrupt:
            print("lnpjax: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
        except Exception as error:
            if debug:
                raise
            return int(explain(error))
    return int(status)


def _command(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(versions())
        return Exit.DONE
    tyro: Any = import_extra("tyro", extra="run", purpose="the command line")
    train: Any = Train
    file, recipe = (named(arguments, option) for option in ("--config", "--recipe"))
    if arguments[:1] == ["train"] and (file is not None or recipe in RECIPES):
        default = options_before(Train, None if file is None else Path(file), recipe)
        train = Annotated[Train, tyro.conf.subcommand("train", default=default)]
    command = tyro.cli(
        train | Plot | Compare | Report | Inspect | Spectrum | Validate | Reproduce | Export,
        prog="lnpjax",
        description="Measure what a network is learning from, while it trains. With --debug, an "
        "error shows where it was raised.",
        args=arguments,
        config=(
            tyro.conf.OmitArgPrefixes,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.DisallowNone,
            tyro.conf.PositionalRequiredArgs,
            tyro.conf.PositionalMetavarFromFieldName,
        ),
    )
    return command()


def ignore_closed_loops(unraisable: Any) -> None:
    """Report what Python cannot raise, except that Orbax's reads end after their event loop."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _print_anything() -> None:
    """Have characters that an output cannot show escaped, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"lnpjax: warning: {' '.join(str(message).split())}", file=sys.stderr)


def versions() -> str:
    """Return what a report of a problem should name: releases and devices.

    Example:
        >>> print(versions())
        lnpjax ...
        jax ..., jaxlib ..., flax ...
        Python ..., ... cpu ...
    """
    releases = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "flax"))
    devices = jax.devices()
    python = platform.python_version()
    present = f"{len(devices)} {devices[0].platform} device(s): {devices[0].device_kind}"
    return f"lnpjax {__version__}\n{releases}\nPython {python}, {present}"
