"""How a command ends: its exit status, and what a person reads on standard error."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from lnpjax._base.checks import require

ISSUES = "https://github.com/lnpjax/lnpjax/issues"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class Exit(enum.IntEnum):
    """The exit statuses of the command line; a signal's are 128 and its number."""

    DONE = 0
    BUG = 1
    REFUSED = 2
    DIVERGED = 3
    DISAGREES = 4


def explain(error: Exception) -> int:
    """Print one line about an error on standard error, and return the exit status.

    What a person can do something about is named; anything else is a bug, whose traceback goes to a
    file that can be sent.
    """
    if isinstance(error, BrokenPipeError):
        silence_output()
        return 128 + signal.SIGPIPE
    text = _for_the_user(error)
    if text is not None:
        _print(text)
        return Exit.REFUSED
    name = type(error).__name__
    _print(
        f"this is a bug of lnpjax: {name}: {error} (please report it at {ISSUES} with "
        f"{_save_traceback(error)}; --debug shows the traceback)"
    )
    return Exit.BUG


def silence_output() -> None:
    """Send standard output nowhere, so that its last flush, at exit, cannot fail."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError, AttributeError):  # it has no descriptor of its own
        sys.stdout = None


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"lnpjax: {' '.join(text.split())}", file=sys.stderr)


def _for_the_user(error: Exception) -> str | None:
    """Return what a person can do something about; None where it is a bug."""
    if isinstance(error, OSError):
        return str(error)
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL_DISK:
            return str(cause)
    text = str(error)
    if isinstance(error, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory: expected a smaller model, batch or number of samples, got: {text}"
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in text:
        return f"JAX_PLATFORMS: expected a kind of device that JAX finds here, got: {text}"
    refused = (ValueError, ImportError, RuntimeError)
    return text if _raised_by_require(error, refused) else None


def _raised_by_require(error: Exception, refused: tuple[type[Exception], ...]) -> bool:
    """Return whether this library raised the error itself, on purpose."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return False
    code = frames[-1][0].f_code
    if code is require.__code__:
        return True
    package = Path(__file__).parents[1]
    return isinstance(error, refused) and package in Path(code.co_filename).parents


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _save_traceback(error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lnpjax-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(" ".join(["lnpjax", *sys.argv[1:]]) + "\n" + text)
    except OSError:
        print(text, file=sys.stderr)
        return "the traceback above"
    return file.name
