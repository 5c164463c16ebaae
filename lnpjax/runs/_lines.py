"""Files of rows: one line of strict JSON each, appended whole or not at all, and read back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from lnpjax._base.checks import require
from lnpjax.runs._checkpoints import is_key


def strict_json(value: Mapping[str, Any], argument: str, indent: int | None = None) -> str:
    """Return strict JSON, which has neither NaN nor infinity.

    Args:
        value: what to write.
        argument: the name of the argument, as the caller wrote it, for the message.
        indent: spaces per level; None for a single line.

    Returns:
        The text.

    Raises:
        ValueError: if JSON cannot hold the value.

    Example:
        >>> strict_json({"steps": 3}, "config")
        '{"steps": 3}'
        >>> strict_json({"rate": float("nan")}, "config")
        Traceback (most recent call last):
            ...
        ValueError: config: expected what JSON can hold, got: Out of range float values are not
            JSON compliant...
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: expected what JSON can hold, got: {error}") from error


def encode(value: Any, where: str) -> Any:
    """Return a value as JSON takes it: numbers of any library as Python's, non-finite ones null."""
    if isinstance(value, Mapping):
        return {str(key): encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    if getattr(value, "shape", None) == () and not is_key(value):
        value = np.asarray(value).item()
    scalar = value is None or isinstance(value, bool | int | float | str)
    got = f"{type(value).__name__} {getattr(value, 'shape', '')}".rstrip()
    require(scalar, where, expected="a scalar", got=got, error=TypeError)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as a file of rows has them."""
    return "".join(strict_json(encode(row, "row"), "row") + "\n" for row in rows)


def decode(line: bytes, where: str) -> dict[str, Any]:
    """Return the row of a line; `where` names the line in the message if it is not a row."""
    try:
        row = json.loads(line, object_hook=null_to_nan, parse_constant=_refuse_constant)
        require(isinstance(row, dict) and "kind" in row, "row", expected='a "kind"', got=row)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{where}: expected a row (a JSON object with a "kind"), got {line[:80]!r}'
        ) from error
    return row


def require_kind(row: Mapping[str, Any]) -> None:
    """Refuse a row that does not say what it is."""
    has_kind = isinstance(row.get("kind"), str)
    require(has_kind, "row", expected='a text under "kind"', got=dict(row))


def open_lines(file: Path) -> FileIO:
    """Open a file of rows to append to it, without the torn line that a kill may have left."""
    opened = FileIO(file, "a")
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):  # it would spoil the row after it
        os.ftruncate(opened.fileno(), whole)
    return opened


def append_line(file: FileIO, row: Mapping[str, Any]) -> None:
    """Append a row to a file in one unbuffered write, whole or not at all."""
    line = (json.dumps(encode(row, "row"), allow_nan=False) + "\n").encode()
    length = os.fstat(file.fileno()).st_size
    if os.write(file.fileno(), line) != len(line):
        os.ftruncate(file.fileno(), length)
        raise OSError(f"{os.fsdecode(file.name)}: no room for another row")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; an empty list where there is no file."""
    content = file.read_bytes() if file.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last newline is a torn write
    return [decode(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def null_to_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Undo, as an `object_hook` of `json`, what `encode` makes of a number that is not finite."""
    return {key: math.nan if value is None else value for key, value in values.items()}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
