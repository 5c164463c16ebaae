"""Files of token ids, as nanoGPT and FineWeb's users write them: read from the disk, not copied.

nanoGPT's `prepare.py` writes the tokens alone, in 16 bits each. llm.c's and modded-nanogpt's begin
with a header of 256 integers of 32 bits: a number that names the format, its version, and how many
tokens follow. Everything is little-endian; a header in the other order says that the tokens are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import check_count, require
from lnpjax.data.files import TOKEN_EXTENSIONS, list_files

_HEADER_INTEGERS = 256
_FORMATS = {20240520: (1, "u2"), 20240801: (7, "u4")}
"""What begins a header, with the version and the type of the tokens: of GPT-2, of Llama 3."""


@dataclass(frozen=True, eq=False)
class TokenFiles:
    """The ids of several files as one vector, of which only what is asked for is in memory.

    Args:
        parts: the ids of each file, `(tokens,)`.

    Example:
        >>> ids = TokenFiles((np.arange(3), np.arange(3, 5)))
        >>> len(ids), ids[np.array([[1, 4]])], ids[2:4]
        (5, array([[1, 4]]), array([2, 3]))
    """

    parts: tuple[Int[np.ndarray, " tokens"], ...]

    @property
    def dtype(self) -> np.dtype:
        """The type that holds the ids of every file."""
        return np.result_type(*self.parts)

    @property
    def shape(self) -> tuple[int]:
        """`(tokens,)`."""
        return (len(self),)

    @property
    def ndim(self) -> int:
        """One axis."""
        return 1

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def min(self) -> int:
        """Return the lowest id."""
        return min(int(part.min()) for part in self.parts)

    def max(self) -> int:
        """Return the highest id."""
        return max(int(part.max()) for part in self.parts)

    def __getitem__(self, index: slice | Int[np.ndarray, ...]) -> Int[np.ndarray, ...]:
        if isinstance(index, slice):
            return self._consecutive(*index.indices(len(self)))
        found = np.empty(index.shape, self.dtype)
        part_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(part_of):
            here, start = part_of == number, self._ends[number] - len(self.parts[number])
            found[here] = self.parts[number][index[here] - start]
        return found

    def _consecutive(self, start: int, stop: int, step: int) -> Int[np.ndarray, " tokens"]:
        """Return a slice, which is as fast as reading."""
        require(step > 0, "index", expected="a slice with a step >= 1", got=step)
        pieces = [np.empty(0, self.dtype)]
        for part, end in zip(self.parts, self._ends.tolist(), strict=True):
            begin = end - len(part)
            if begin < stop and start < end:
                pieces.append(part[max(start - begin, 0) : stop - begin])
        return np.concatenate(pieces)[::step]

    @cached_property
    def _ends(self) -> Int[np.ndarray, " files"]:
        return np.cumsum([len(part) for part in self.parts])


def read_tokens(
    path: str | Path, *, vocab_size: int | None = None, max_bytes: int | None = None
) -> Int[np.ndarray, " tokens"] | TokenFiles:
    """Map the token ids of a `.bin` file, or of a folder of such files, into memory.

    The ids stay on the disk until they are asked for. They are read once to be checked.

    Args:
        path: the file or folder, whose files are read in the order of their relative paths.
        vocab_size: how many tokens there are.
        max_bytes: take at most that many bytes of tokens; None for all of them.

    Returns:
        The ids, `(tokens,)`.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if a file is empty, its header is of another version or does not fit its size,
            it is not a whole number of tokens, or an id is not in the vocabulary.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "train.bin"
        >>> np.array([5, 6, 7], "<u2").tofile(file)
        >>> read_tokens(file, vocab_size=8)
        memmap([5, 6, 7], dtype=uint16)
    """
    check_count("vocab_size", vocab_size, optional=True)
    check_count("max_bytes", max_bytes, optional=True)
    parts, left = [], max_bytes
    for file in list_files(Path(path), TOKEN_EXTENSIONS):
        part = _map_file(file)
        if left is not None:
            part = part[: left // part.itemsize]
            left -= part.nbytes
        if len(part):
            parts.append(part)
            _check_vocabulary(file, part, vocab_size)
        if left == 0:
            break
    expected = "at least one token"
    require(bool(parts), "max_bytes", expected=f"those of {expected}", got=max_bytes)
    return parts[0] if len(parts) == 1 else TokenFiles(tuple(parts))


def _map_file(path: Path) -> Int[np.ndarray, " tokens"]:
    """Map the tokens of one file, whose size has to be what it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(4 * _HEADER_INTEGERS)
    for order in "<>":
        numbers = np.frombuffer(header[: len(header) // 4 * 4], f"{order}i4")
        if len(numbers) and int(numbers[0]) in _FORMATS:
            return _map_after_header(path, numbers, order)
    require(size > 0, "path", expected="a file of tokens", got=f"{path}, which is empty")
    expected, got = "16-bit tokens, two bytes each", f"{size} bytes in {path}"
    require(size % 2 == 0, "path", expected=expected, got=got)
    return np.memmap(path, "<u2", mode="r")


def _map_after_header(
    path: Path, header: Int[np.ndarray, " header"], order: str
) -> Int[np.ndarray, " tokens"]:
    offset = 4 * _HEADER_INTEGERS
    expected = f"a header of {_HEADER_INTEGERS} integers"
    got = f"{path}, which ends before"
    require(len(header) == _HEADER_INTEGERS, "path", expected=expected, got=got)
    magic, version, num_tokens = map(int, header[:3])
    known, kind = _FORMATS[magic]
    expected, got = f"version {known} of token files", f"version {version} in {path}"
    require(version == known, "path", expected=expected, got=got)
    dtype = np.dtype(f"{order}{kind}")
    there = path.stat().st_size - offset
    require(
        num_tokens > 0 and num_tokens * dtype.itemsize == there,
        "path",
        expected="as many tokens as its header says, and at least one",
        got=f"a header that says {num_tokens}, and {there / dtype.itemsize:g} in {path}",
    )
    return np.memmap(path, dtype, mode="r", offset=offset)


def _check_vocabulary(path: Path, ids: Int[np.ndarray, " tokens"], vocab_size: int | None) -> None:
    highest = int(ids.max())
    require(
        vocab_size is not None,
        "vocab_size",
        expected="the size of the vocabulary, or a tokenizer, since token files do not say it",
        got=f"neither (the highest token of {path} is {highest})",
    )
    assert vocab_size is not None
    require(
        highest < vocab_size,
        "data",
        expected=f"tokens below {vocab_size}, the size of the vocabulary",
        got=f"token {highest} in {path} (of another tokenizer, or no file of 16-bit tokens?)",
    )
