"""How the library refuses bad input and names a missing extra."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


def require(
    condition: bool,
    argument: str,
    *,
    expected: str,
    got: Any,
    error: type[Exception] = ValueError,
) -> None:
    """Raise `error` unless `condition` holds, naming the argument, the expectation and what came.

    Args:
        condition: what must be true; a Python bool, never a traced value.
        argument: the name of the offending argument, as the caller wrote it.
        expected: what would have been accepted, and where it helps, what to do about it.
        got: what came instead.
        error: the exception to raise.

    Raises:
        ValueError: (or `error`) if the condition is false.

    Example:
        >>> require(0 >= 1, "num_probes", expected="an integer >= 1", got=0)
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 1, got 0
    """
    if not condition:
        raise error(f"{argument}: expected {expected}, got {got}")


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module that belongs to an optional extra.

    Args:
        module: the module to import.
        extra: the extra of lnpjax that installs it.
        purpose: what needs it, for the error message.

    Returns:
        The imported module.

    Raises:
        ImportError: if it is not installed; the message names the extra.

    Example:
        >>> import_extra("json", extra="run", purpose="reading metrics").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {module!r}: pip install 'lnpjax[{extra}]'"
        ) from error
