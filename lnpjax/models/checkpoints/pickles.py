"""PyTorch's files (`.pt`, `.bin`), read by an unpickler that makes arrays and plain containers.

A pickle is a program: it names functions and calls them. This unpickler knows the few names that
tensors need and refuses a file that names anything else. Both formats are read: the zip archive,
and the stream of pickles that PyTorch wrote before version 1.6.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import mmap
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from lnpjax._base.checks import is_integer, require
from lnpjax.models.checkpoints.tensors import DTYPES, StoredTensor, checked_shape

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT_BYTES = 8
MOST_SHARING = 4
"""How many tensors may share their numbers, on average: tied ones do."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file that tensors are views of."""

    dtype: Any
    key: Any
    numel: Any


@dataclasses.dataclass(frozen=True)
class _View:
    """A tensor as the pickle describes it; nothing about it has been checked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


# The C implementation would allocate what an opcode asks for; this one keeps its memo in a dict.
class _ArraysOnly(pickle._Unpickler):
    """An unpickler that calls nothing but the functions below."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of PyTorch's; refuse all others."""

        def rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
            return _View(storage, offset, shape, strides)

        def parameter(data: Any, *_: Any) -> Any:
            return data

        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): rebuild,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch._utils", "_rebuild_parameter"): parameter,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which it wants to call")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage that the pickle refers to."""
        kind, dtype, key, _, numel, *views = pid
        if kind != "storage" or any(view is not None for view in views):
            raise pickle.UnpicklingError(f"the reference {str(pid)[:200]}")
        return _Storage(dtype, key, numel)


_DATA = Callable[[Any, np.dtype, int], Callable[[], bytes]]
"""From a storage's key, dtype and count, all checked against the file, to what reads its bytes."""


def read_pickle(file: Path) -> dict[Any, Any]:
    """Read what `torch.save` wrote, without calling anything that the file names.

    Args:
        file: its path.

    Returns:
        The object, a mapping, with a `StoredTensor` in place of each tensor.

    Raises:
        ValueError: if the file is not PyTorch's, is damaged, promises more than it holds, or names
            anything but tensors; the message has the name.
        OSError: if the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.bin"
        >>> _ = file.write_bytes(pickle.dumps(pathlib.PurePosixPath("harm")))
        >>> read_pickle(file)
        Traceback (most recent call last):
            ...
        ValueError: .../model.bin: expected a PyTorch file that holds arrays only, got: ...
    """
    expected = "a PyTorch file that holds arrays only"
    try:
        with file.open("rb") as stream:
            content = _from_zip(file) if zipfile.is_zipfile(stream) else _from_stream(file)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file}: expected {expected}, got: {error}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{file}: expected {expected}, got a damaged one: {error}") from error
    got = type(content).__name__
    require(isinstance(content, dict), str(file), expected="a dictionary of tensors", got=got)
    promised, most = sum(map(_num_bytes, content.values())), MOST_SHARING * file.stat().st_size
    expected = f"tensors of at most {most} bytes, {MOST_SHARING} for each byte of the file"
    require(promised <= most, str(file), expected=expected, got=f"{promised} bytes")
    return content


def _from_zip(file: Path) -> Any:
    """Read the format since PyTorch 1.6: NAME/data.pkl, and NAME/data/KEY for each storage."""
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        for entry in entries.values():
            stored = entry.compress_type == zipfile.ZIP_STORED
            fits = entry.file_size == entry.compress_size <= size - entry.header_offset
            expected, got = "uncompressed bytes of the file", f"{entry.file_size} bytes"
            require(stored and fits, f"{file}: {entry.filename}", expected=expected, got=got)
        program = next((name for name in entries if name.endswith("data.pkl")), None)
        require(program is not None, str(file), expected="an archive with data.pkl", got="none")
        assert program is not None
        folder = program.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries:
            order = archive.read(f"{folder}byteorder")
            require(order == b"little", str(file), expected="little-endian numbers", got=order)
        content = _load(BytesIO(archive.read(program)))
    _check_nesting(content, size)

    def data(key: Any, dtype: np.dtype, count: int) -> Callable[[], bytes]:
        name = f"{folder}data/{key}"
        require(name in entries, str(file), expected=f"the storage {name}", got="none")
        promised, held = count * dtype.itemsize, entries[name].file_size
        expected = f"the {promised} bytes of {count} numbers of {dtype}"
        require(promised == held, f"{file}: {name}", expected=expected, got=held)
        return partial(_read_entry, file, name)

    return _with_tensors(content, file, data)


def _read_entry(file: Path, name: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(name)


def _from_stream(file: Path) -> Any:
    """Read the format before PyTorch 1.6.

    Five pickles, of a magic number, a protocol version, the machine, the object, and the keys of
    storages; then a count and that many numbers for each storage.
    """
    require(file.stat().st_size > 0, str(file), expected="a PyTorch file", got="an empty file")
    with (
        file.open("rb") as stream,
        # Unlike a file, it does not allocate what is read beyond its end.
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        magic, protocol, machine, content, keys = (_load(mapped) for _ in range(5))
        right = magic == _LEGACY_MAGIC and protocol == _LEGACY_PROTOCOL
        right = right and isinstance(machine, dict) and isinstance(keys, list)
        require(right, str(file), expected="a PyTorch file", got="another pickle")
        start, size = mapped.tell(), len(mapped)
        _check_nesting(content, size)
        storages = {storage.key: storage for storage in _storages(content)}
        places: dict[Any, tuple[int, int]] = {}
        for key in keys:
            require(key in storages, str(file), expected="storages that are used", got=key)
            count = int.from_bytes(mapped[start : start + _COUNT_BYTES], "little", signed=True)
            start += _COUNT_BYTES
            end = start + count * _dtype(storages[key], file).itemsize
            expected = f"at most the {size - start} bytes that follow"
            require(start <= end <= size, f"{file}: storage {key}", expected=expected, got=count)
            places[key], start = (start, count), end

    def data(key: Any, dtype: np.dtype, count: int) -> Callable[[], bytes]:
        held = places[key][1] if key in places else "none"
        expected = f"the {count} numbers of storage {key}"
        require(count == held, str(file), expected=expected, got=held)
        return partial(_read_bytes, file, places[key][0], count * dtype.itemsize)

    return _with_tensors(content, file, data)


def _load(stream: Any) -> Any:
    """Run one pickle; a damaged one raises whatever its last opcode could not do."""
    try:
        return _ArraysOnly(stream, encoding="utf-8").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:
        raise pickle.UnpicklingError(
            f"a damaged pickle ({type(error).__name__}: {error})"
        ) from error


def _check_nesting(content: Any, size: int) -> None:
    """Refuse containers that hold one another so often that nobody can walk through them."""
    waiting, seen = [content], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > MOST_SHARING * size:
            raise pickle.UnpicklingError("containers that hold one another")
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(node)


def _read_bytes(file: Path, start: int, length: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)


def _storages(content: Any) -> Iterator[_Storage]:
    if isinstance(content, _View) and isinstance(content.storage, _Storage):
        yield content.storage
    elif isinstance(content, dict):
        for value in content.values():
            yield from _storages(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _storages(value)


def _with_tensors(content: Any, file: Path, data: _DATA, where: str = "") -> Any:
    """Return the object with a checked `StoredTensor` for each view."""
    if isinstance(content, _View):
        return _tensor(content, file, data, where)
    if isinstance(content, dict):
        return {
            key: _with_tensors(value, file, data, f"{where}{key}: ")
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return type(content)(
            [_with_tensors(value, file, data, f"{where}{i}: ") for i, value in enumerate(content)]
        )
    plain = content is None or isinstance(content, bool | int | float | complex | str | bytes)
    got = type(content).__name__
    require(plain, f"{file}: {where}value", expected="a tensor or plain value", got=got)
    return content


def _num_bytes(content: Any) -> int:
    if isinstance(content, StoredTensor):
        return content.num_bytes
    if isinstance(content, dict):
        return sum(map(_num_bytes, content.values()))
    return sum(map(_num_bytes, content)) if isinstance(content, list | tuple) else 0


def _dtype(storage: _Storage, file: Path) -> np.dtype:
    known = isinstance(storage.dtype, str) and storage.dtype in DTYPES
    require(known, str(file), expected="a storage of numbers", got=repr(storage.dtype)[:200])
    return DTYPES[storage.dtype]


def _tensor(view: _View, file: Path, data: _DATA, where: str) -> StoredTensor:
    name = f"{file}: {where}tensor"
    storage = view.storage
    got = type(storage).__name__
    require(isinstance(storage, _Storage), name, expected="a view of a storage", got=got)
    dtype, shape = _dtype(storage, file), checked_shape(view.shape, name)
    strides = checked_shape(view.strides, name)
    require(len(strides) == len(shape), name, expected="a stride for each axis", got=strides)
    for value in (view.offset, storage.numel):
        require(is_integer(value) and value >= 0, name, expected="a count", got=repr(value)[:200])
    size, steps = math.prod(shape), zip(shape, strides, strict=True)
    last = view.offset + sum((n - 1) * step for n, step in steps) if size else 0
    expected = f"a view of the {storage.numel} numbers of its storage"
    fits = size <= storage.numel and last < max(storage.numel, 1)
    require(fits, name, expected=expected, got=f"shape {shape} with strides {strides}")
    read_bytes = data(storage.key, dtype, storage.numel)

    def read() -> np.ndarray:
        numbers = np.frombuffer(read_bytes(), dtype)
        steps = [dtype.itemsize * step for step in strides]
        view_of = np.lib.stride_tricks.as_strided
        return view_of(numbers[view.offset :], shape, steps, writeable=False)

    return StoredTensor(shape, dtype, str(file), read)


def tensors_of(content: Mapping[Any, Any], file: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """Return the tensors of a dictionary that holds nothing else.

    Args:
        content: the dictionary; see `read_pickle`.
        file: where it is from, for the message.

    Raises:
        ValueError: if it holds anything but tensors by name.

    Example:
        >>> tensors_of({"step": 3}, "model.bin")
        Traceback (most recent call last):
            ...
        ValueError: model.bin: expected tensors by name, got int as 'step'
    """
    for name, tensor in content.items():
        good = isinstance(name, str) and isinstance(tensor, StoredTensor)
        got = f"{type(tensor).__name__} as {name!r}"
        require(good, os.fspath(file), expected="tensors by name", got=got)
    return dict(content)
