"""The command `lnpjax`."""

from __future__ import annotations

import platform
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from lnpjax._base.checks import import_extra
from lnpjax._version import __version__
from lnpjax.commands.compare import Compare
from lnpjax.commands.plot import Plot
from lnpjax.commands.reproduce import Reproduce
from lnpjax.commands.spectrum import Spectrum
from lnpjax.commands.train import Train
from lnpjax.commands.validate import Validate

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the command's name; those of the process if None. ``--version``
            alone prints the versions of this library and of JAX, and the devices.

    Returns:
        The exit status: 0; 1 if training diverged; 2 for bad input, after one line on standard
        error; 128 plus the signal's number if a signal ended it.

    Raises:
        SystemExit: with status 2, for invalid arguments; with 0, for `--help`.

    Example:
        >>> main(["--version"])
        lnpjax ...
        jax ..., jaxlib ..., flax ...
        Python ..., ... cpu ...
        0
    """
    if (sys.argv[1:] if arguments is None else list(arguments)) == ["--version"]:
        print(versions())
        return 0
    try:
        tyro: Any = import_extra("tyro", extra="run", purpose="the command line")
        command = tyro.cli(
            Train | Plot | Compare | Spectrum | Validate | Reproduce,
            prog="lnpjax",
            description="Measure what a network is learning from, while it trains.",
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
    except KeyboardInterrupt:
        print("lnpjax: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if not _is_for_the_user(error):
            raise
        print(f"lnpjax: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE


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


def _is_for_the_user(error: Exception) -> bool:
    """Return whether the library or the operating system refused; else it is a bug to be shown."""
    if isinstance(error, OSError):
        return True
    innermost: TracebackType | None = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    package = Path(__file__).parent
    return innermost is not None and package in Path(innermost.tb_frame.f_code.co_filename).parents
