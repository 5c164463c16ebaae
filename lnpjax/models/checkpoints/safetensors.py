"""The safetensors format: a length, a JSON header, and the bytes of the tensors.

Eight bytes say how long the header is (little-endian). The header maps each name to a dtype, a
shape and the first and last byte of the tensor, counted from the end of the header.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lnpjax._base.checks import is_integer, require
from lnpjax._base.files import write_atomically
from lnpjax.models.checkpoints.tensors import (
    DTYPES,
    StoredTensor,
    StoredTensors,
    checked_shape,
    parse_json_object,
)

LONGEST_HEADER = 100_000_000
"""The format's own limit."""
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"


def describe_safetensors(file: Path) -> StoredTensors:
    """Read the header of a file; its tensors are mapped into memory when they are read.

    Args:
        file: its path.

    Returns:
        Its tensors by name.

    Raises:
        ValueError: if the header is invalid, or promises more than the file holds.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> write_safetensors(file, {"weight": np.ones((2, 3), np.float32)})
        >>> describe_safetensors(file)["weight"].shape
        (2, 3)
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        beginning = stream.read(_LENGTH.size)
        whole = len(beginning) == _LENGTH.size
        length = _LENGTH.unpack(beginning)[0] if whole else 0
        most = min(size - _LENGTH.size, LONGEST_HEADER)
        expected = f"a safetensors file, with a header of at most {max(most, 0)} bytes"
        got = f"{length} bytes" if whole else f"a file of {size} bytes"
        require(whole and length <= most, str(file), expected=expected, got=got)
        header = parse_json_object(stream.read(length), str(file))
    header.pop(_METADATA, None)
    start = _LENGTH.size + length
    tensors = {name: _describe(file, name, entry, start, size) for name, entry in header.items()}
    promised = sum(tensor.num_bytes for tensor in tensors.values())
    expected = f"tensors of at most {size - start} bytes, which share none"
    require(promised <= size - start, str(file), expected=expected, got=f"{promised} bytes")
    return tensors


def _describe(file: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    """Return what an entry of the header says of a tensor, if the file can hold that."""
    where = f"{file}: {name}"
    keys = ("dtype", "shape", "data_offsets")
    complete = isinstance(entry, dict) and all(key in entry for key in keys)
    require(complete, where, expected=f"an object with {', '.join(keys)}", got=repr(entry)[:200])
    known = isinstance(entry["dtype"], str) and entry["dtype"] in DTYPES
    expected = f"one of the dtypes {', '.join(DTYPES)}"
    require(known, where, expected=expected, got=repr(entry["dtype"])[:200])
    shape, dtype = checked_shape(entry["shape"], where), DTYPES[entry["dtype"]]
    offsets, held = entry["data_offsets"], size - start
    pair = isinstance(offsets, list) and len(offsets) == 2 and all(map(is_integer, offsets))
    inside = pair and 0 <= offsets[0] <= offsets[1] <= held
    require(inside, where, expected=f"bytes among the {held} of data", got=repr(offsets)[:200])
    tensor = StoredTensor(
        shape, dtype, str(file), partial(_read, file, start, offsets, dtype, shape)
    )
    promised, given = tensor.num_bytes, offsets[1] - offsets[0]
    expected = f"{promised} bytes, as its shape {shape} of {entry['dtype']} takes"
    require(promised == given, where, expected=expected, got=given)
    return tensor


def _read(
    file: Path, start: int, offsets: list[int], dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    if offsets[0] == offsets[1]:
        return np.zeros(shape, dtype)
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    count = (offsets[1] - offsets[0]) // dtype.itemsize
    return np.frombuffer(mapped, dtype, count, start + offsets[0]).reshape(shape)


def write_safetensors(file: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors to a file, whole or not at all.

    Args:
        file: its path.
        tensors: by name.

    Raises:
        ValueError: if a tensor has a dtype that the format lacks.
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> write_safetensors(tempfile.mkdtemp() + "/model.safetensors", {"bias": np.zeros(3)})
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    # `transformers` refuses a file that does not name its framework.
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    chunks, offset = [], 0
    for name, array in tensors.items():
        dtype = array.dtype.newbyteorder("<")
        expected = f"one of the dtypes {', '.join(DTYPES)}"
        require(dtype in names, f"{file}: {name}", expected=expected, got=array.dtype)
        chunk = np.ascontiguousarray(array, dtype).tobytes()
        offsets = [offset, offset := offset + len(chunk)]
        header[name] = {"dtype": names[dtype], "shape": array.shape, "data_offsets": offsets}
        chunks.append(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    write_atomically(Path(file), b"".join([_LENGTH.pack(len(text)), text, *chunks]))
