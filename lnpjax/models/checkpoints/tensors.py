"""What a file says about its tensors, before they are read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from lnpjax._base.checks import is_integer, require


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, whose place and size have been checked.

    Attributes:
        shape: its shape.
        dtype: what it is stored in.
        file: the file that holds it, for messages.
        read: reads it.

    Example:
        >>> tensor = StoredTensor((2,), np.dtype("f4"), "in memory", lambda: np.ones(2, "f4"))
        >>> tensor.size, tensor.read().tolist()
        (2, [1.0, 1.0])
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize


StoredTensors: TypeAlias = Mapping[str, StoredTensor]

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.bool_,
}
DTYPES = {name: np.dtype(dtype).newbyteorder("<") for name, dtype in _DTYPES.items()}
"""The dtypes of tensors by their names in safetensors; files are little-endian."""


def checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    """Return a shape as a file gives it, if it is one.

    Args:
        shape: what should be a list of sizes.
        where: the file and the tensor, for the message.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> checked_shape([2, -3], "model.safetensors: weight")
        Traceback (most recent call last):
            ...
        ValueError: model.safetensors: weight: expected a shape, got [2, -3]
    """
    listed = isinstance(shape, list | tuple) and len(shape) <= 32
    good = listed and all(is_integer(size) and size >= 0 for size in shape)
    require(good, where, expected="a shape", got=repr(shape)[:200])
    return tuple(shape)


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        file: its path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else.

    Example:
        >>> read_json_object(Path("missing.json"))
        Traceback (most recent call last):
            ...
        FileNotFoundError: missing.json: expected a JSON file, got none
    """
    require(file.is_file(), str(file), expected="a JSON file", got="none", error=FileNotFoundError)
    return parse_json_object(file.read_bytes(), str(file))


def parse_json_object(content: bytes, where: str) -> dict[str, Any]:
    """Parse JSON that is one object.

    Args:
        content: the text, in UTF-8.
        where: the file, for the message.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> parse_json_object(b"[]", "config.json")
        Traceback (most recent call last):
            ...
        ValueError: config.json: expected a JSON object, got list
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected a JSON object, got: {error}") from error
    require(isinstance(value, dict), where, expected="a JSON object", got=type(value).__name__)
    return value
