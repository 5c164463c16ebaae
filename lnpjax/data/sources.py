"""Where text comes from: files, and the interpreter's own sources.

Every source is an iterator of documents (`str`), read as it is consumed, in an order that depends
on nothing but the source itself.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from lnpjax._base.checks import check_count, require
from lnpjax.data.files import (
    TEXT_EXTENSIONS,
    check_readers,
    decoded,
    extension,
    list_files,
    split,
    unix_lines,
)
from lnpjax.data.tables import column_texts, csv_texts, jsonl_texts

DOCUMENT_SEPARATOR = "<|endoftext|>"
"""What ends a document in a plain text file, unless another separator is named."""
STANDARD_LIBRARY_BYTES = 4 * 2**20
"""How much of the standard library is read when no budget is named."""
# Tests, installed packages, programs that are not a library, tables of code points and topics.
_SKIPPED_FOLDERS = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idle_test", "idlelib", "lib2to3",
    "pydoc_data", "site-packages", "test", "tests", "turtledemo",
}  # fmt: skip
# Written when an interpreter is built or installed: they differ between machines.
_SKIPPED_FILES = re.compile(r"_sysconfigdata.*|sitecustomize|usercustomize")


def take_bytes(documents: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """Pass on documents up to a budget of UTF-8 bytes.

    The document that would exceed the budget is cut to what is left of it, at a character boundary,
    so that a budget means the same amount of text whatever the size of the documents.

    Args:
        documents: the documents.
        max_bytes: the budget, or None for no limit.

    Returns:
        An iterator of the documents within the budget.

    Raises:
        ValueError: if `max_bytes` is below 1.

    Example:
        >>> list(take_bytes(["abc", "def", "g"], 5))
        ['abc', 'de']
    """
    check_count("max_bytes", max_bytes, optional=True)
    return iter(documents) if max_bytes is None else _take_bytes(documents, max_bytes)


def _take_bytes(documents: Iterable[str], max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for document in documents:
        encoded = document.encode()
        if len(encoded) >= left:
            if part := encoded[:left].decode(errors="ignore"):
                yield part
            return
        left -= len(encoded)
        yield document


def split_documents(
    chunks: Iterable[str],
    *,
    separator: str = DOCUMENT_SEPARATOR,
    drop_cut: bool = True,
) -> Iterator[str]:
    r"""Split a stream of text at a separator, one document at a time.

    White space around a document belongs to the separator and is removed; empty documents are
    skipped. Line ends become ``\n`` first, in the text and in the separator, so that blank lines
    separate documents whichever system wrote them.

    Args:
        chunks: the text, in pieces of any size.
        separator: what ends a document; two newlines for documents set apart by a blank line.
        drop_cut: drop what follows the last separator: a file that was cut at some size ends in
            part of a document. A text without any separator is one document and is kept.

    Returns:
        An iterator of documents.

    Raises:
        ValueError: if `separator` is empty.

    Example:
        >>> list(split_documents(["one<|endof", "text|>\ntwo<|endoftext|>thr"]))
        ['one', 'two']
        >>> list(split_documents(["one\n\ntwo"], separator="\n\n", drop_cut=False))
        ['one', 'two']
    """
    require(separator != "", "separator", expected="a non-empty string", got="''")
    return _split_documents(chunks, separator, drop_cut, None)


def _split_documents(
    chunks: Iterable[str], separator: str, drop_cut: bool, longest: int | None
) -> Iterator[str]:
    separator = re.sub("\r\n?", "\n", separator)
    parts = split(unix_lines(chunks), separator, longest)
    previous: str | None = None
    separated = False
    for part in parts:
        if previous is not None:
            separated = True
            yield from filter(None, [previous.strip()])
        previous = part
    if previous is not None and previous.strip() and not (separated and drop_cut):
        yield previous.strip()


def read_documents(
    path: str | Path,
    *,
    text_field: str | None = None,
    separator: str = DOCUMENT_SEPARATOR,
    drop_cut: bool = True,
    longest: int | None = None,
) -> Iterator[str]:
    r"""Read documents from a file of text or of columns, or from a folder of such files.

    Text is `.txt`, `.jsonl` or `.csv`, each also as `.gz` or `.zst`; columns are `.parquet` or
    `.arrow` (Arrow's files and streams, as `datasets.save_to_disk` writes them). All of them are
    read piece by piece. The files of a folder are read in the order of their relative paths,
    subfolders included, unless they or their folders are hidden (`.ipynb_checkpoints`). Files with
    other extensions are left out, and so is the compressed copy of a file that lies next to it; a
    warning says which, except for documentation. Text is UTF-8, or what its byte-order mark says;
    the mark is no text. Line ends of `.txt` and `.csv` become ``\n``; strings of the other formats
    are taken as they are.

    Args:
        path: the file or folder.
        text_field: the field or column that holds the text, except in `.txt` files; None takes the
            first of "text" and "story" that is there.
        separator: what ends a document in a `.txt` file (see `split_documents`).
        drop_cut: whether the unterminated end of a `.txt` file is dropped (see `split_documents`).
        longest: how many characters are wanted of a document, for instance the budget of
            `take_bytes`; what is longer may be cut after them, so that a file without separators
            is not read to its end. None for whole documents.

    Returns:
        An iterator of documents. White space at their ends is removed and empty ones are skipped,
        so that the same documents come out of every format.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the extension is unknown, a folder holds no readable file, or (while
            reading) a file is not what its extension says or lacks the field; the message lists
            the fields present.
        ImportError: if columns or a `.zst` file are met and pyarrow is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "stories.jsonl").write_text('{"story": "Once."}')
        >>> list(read_documents(folder))
        ['Once.']
    """
    path = Path(path)
    require(separator != "", "separator", expected="a non-empty string", got="''")

    def documents(file: Path) -> Iterator[str]:
        kind = str(extension(file)).removesuffix(".gz").removesuffix(".zst")
        if kind == ".txt":
            return _split_documents(decoded(file), separator, drop_cut, longest)
        return _READERS[kind](file, text_field)

    files = list_files(path, TEXT_EXTENSIONS)
    check_readers(files)
    return (
        stripped for file in files for document in documents(file) if (stripped := document.strip())
    )


_READERS = {
    ".jsonl": jsonl_texts,
    ".csv": csv_texts,
    ".parquet": column_texts,
    ".arrow": column_texts,
}


def standard_library_documents(*, max_bytes: int | None = STANDARD_LIBRARY_BYTES) -> Iterator[str]:
    """Read the sources of the running interpreter's standard library: text without a download.

    Files come in the order of their paths. Tests, demonstration programs, tables and installed
    packages are left out, as are files that differ between two installations of the same
    interpreter. Another version of Python has other sources: compare `fingerprint` before a run is
    resumed elsewhere.

    Args:
        max_bytes: how much to read (see `take_bytes`); None for everything, about 8 MB.

    Returns:
        An iterator of source files.

    Raises:
        ValueError: if `max_bytes` is below 1.
        FileNotFoundError: if this interpreter was installed without its sources.

    Example:
        >>> sources = standard_library_documents(max_bytes=50_000)
        >>> "import" in next(sources)
        True
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        (
            file
            for file in root.rglob("*.py")
            if _SKIPPED_FOLDERS.isdisjoint(file.relative_to(root).parts[:-1])
            and not _SKIPPED_FILES.fullmatch(file.stem)
        ),
        key=lambda file: file.relative_to(root).as_posix(),
    )
    require(
        bool(files),
        "data",
        expected="an interpreter installed with its library's sources, or the path of other text",
        got=f"no .py file in {root}",
        error=FileNotFoundError,
    )
    sources = (file.read_text(encoding="utf-8", errors="replace").strip() for file in files)
    return take_bytes(filter(None, sources), max_bytes)
