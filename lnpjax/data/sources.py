"""Where text comes from: files, and the interpreter's own sources.

Every source is an iterator of documents (`str`), read as it is consumed, in an order that depends
on nothing but the source itself.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from lnpjax._base.checks import check_count, import_extra, require

TEXT_EXTENSIONS = (".txt", ".jsonl", ".parquet", ".txt.gz", ".jsonl.gz")
"""The files that `read_documents` reads."""
_DOCUMENTATION = {"", ".md", ".rst"}
"""Extensions of files that lie next to data and are not data: left out without a warning."""
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file's byte-order mark says about the rest."""
TEXT_FIELDS = ("text", "story")
"""Fields looked for in `.jsonl` and `.parquet` files when none is named, in this order."""
DOCUMENT_SEPARATOR = "<|endoftext|>"
"""What ends a document in a plain text file, unless another separator is named."""
STANDARD_LIBRARY_BYTES = 4 * 2**20
"""How much of the standard library is read when no budget is named."""
_CHUNK_BYTES = 16 * 2**20
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
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    # Without a decoder for bytes it translates text, which its annotation does not say.
    parts = _split((newlines.decode(cast(Any, chunk)) for chunk in chunks), separator, longest)
    previous: str | None = None
    separated = False
    for part in parts:
        if previous is not None:
            separated = True
            yield from filter(None, [previous.strip()])
        previous = part
    if previous is not None and previous.strip() and not (separated and drop_cut):
        yield previous.strip()


def _split(chunks: Iterable[str], separator: str, longest: int | None = None) -> Iterator[str]:
    """Split text at a separator, in time and memory that are linear in the longest part.

    Args:
        chunks: the text, in pieces.
        separator: what stands between parts.
        longest: how many characters of a part are wanted, white space around it left out; of more,
            these and some after them are kept. A first part of more is the only one.
    """
    overlap = len(separator) - 1
    first, held, solid = True, 0, 0  # characters of the part, and up to its last that is no space
    begun: list[str] = []
    tail = ""  # it may begin a separator that ends in the next chunk
    for chunk in chunks:
        *whole, last = (tail + chunk).split(separator)
        for part in whole:
            yield "".join([*begun, part])
            begun, first, held, solid = [], False, 0, 0
        cut = max(len(last) - overlap, 0)
        piece, tail = last[:cut], last[cut:]
        if longest is None or solid < longest:
            piece = piece if solid else piece.lstrip()
            begun.append(piece)
            solid = held + len(piece.rstrip()) if piece.strip() else solid
            held += len(piece)
        elif first:
            break
    yield "".join([*begun, tail])


def read_documents(
    path: str | Path,
    *,
    text_field: str | None = None,
    separator: str = DOCUMENT_SEPARATOR,
    drop_cut: bool = True,
    longest: int | None = None,
) -> Iterator[str]:
    """Read documents from a `.txt`, `.jsonl` or `.parquet` file, or from a folder of such files.

    The files of a folder are read in the order of their relative paths, subfolders included, unless
    they or their folders are hidden (`.ipynb_checkpoints`). Files with other extensions are left
    out, and so is the compressed copy of a file that lies next to it; a warning says which, except
    for documentation. Text is UTF-8, or what its byte-order mark says. Parquet files are streamed
    one row group at a time.

    Args:
        path: the file or folder; `.txt` and `.jsonl` may be compressed (`.txt.gz`, `.jsonl.gz`).
        text_field: the field (jsonl) or column (parquet) that holds the text; None takes the first
            of `TEXT_FIELDS` that is there.
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
        ImportError: if a parquet file is met and pyarrow is missing.

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
        kind = str(text_extension(file)).removesuffix(".gz")
        if kind == ".parquet":
            return _parquet_texts(file, text_field)
        if kind == ".jsonl":
            return _jsonl_texts(file, text_field)
        return _split_documents(_decoded(file), separator, drop_cut, longest)

    files = _text_files(path)
    if any(text_extension(file) == ".parquet" for file in files):
        _import_parquet()
    return (
        stripped for file in files for document in documents(file) if (stripped := document.strip())
    )


def text_extension(path: str | Path) -> str | None:
    """Return which of `TEXT_EXTENSIONS` a path ends in, in small or capital letters.

    Example:
        >>> text_extension("stories.JSONL.gz"), text_extension("stories.csv")
        ('.jsonl.gz', None)
    """
    name = Path(path).name.lower()
    return next((end for end in TEXT_EXTENSIONS if name.endswith(end)), None)


def _text_files(path: Path) -> list[Path]:
    endings = ", ".join(TEXT_EXTENSIONS)
    require(
        path.exists(),
        "path",
        expected=f"an existing file ({endings}) or a folder of such files",
        got=path,
        error=FileNotFoundError,
    )
    if path.is_file():
        require(
            text_extension(path) is not None,
            "path",
            expected=f"a file ending in {endings}",
            got=path,
        )
        return [path]
    visible = (
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    candidates = sorted(visible, key=lambda file: file.relative_to(path).as_posix())
    files = [file for file in candidates if text_extension(file) is not None]
    require(
        bool(files),
        "path",
        expected=f"a folder with at least one file ending in {endings}",
        got=f"{path} with {_listed({file.suffix or file.name for file in candidates})}",
    )
    copies = [
        file for file in files if file.suffix.lower() == ".gz" and file.with_suffix("") in files
    ]
    _warn_of_files_left_out(path, [file for file in candidates if file not in files], copies)
    return [file for file in files if file not in copies]


def _warn_of_files_left_out(folder: Path, others: list[Path], copies: list[Path]) -> None:
    kinds = Counter(file.suffix for file in others if file.suffix.lower() not in _DOCUMENTATION)
    left_out = [f"{count} ending in {kind!r}" for kind, count in sorted(kinds.items())]
    left_out += [f"{file.name}, the compressed copy of {file.stem}" for file in copies]
    if left_out:
        warnings.warn(
            f"path: not all files of {folder} were read: left out {'; '.join(left_out)}",
            stacklevel=4,
        )


def _decoded(path: Path) -> Iterator[str]:
    # A file cut at a byte count may end inside a character: since the decoder is not finalised, an
    # incomplete last character is left out, while a wrong byte anywhere else is still an error.
    decoder: codecs.IncrementalDecoder | None = None
    for chunk in _chunks(path):
        if decoder is None:
            decoder = codecs.getincrementaldecoder(_encoding(path, chunk))()
        try:
            yield decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"path: expected UTF-8 text, or UTF-16 with a byte-order mark, got {path} ({error})"
            ) from error


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with cast(
            IO[bytes], (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb")
        ) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"path: expected a whole gzip file, got {path} ({error})") from error


def _encoding(path: Path, start: bytes) -> str:
    """Return the encoding of a text that begins like this.

    Raises:
        ValueError: if a quarter of the bytes are zero: then it is UTF-16 of unknown byte order, or
            not text.
    """
    for mark, encoding in _ENCODINGS:
        if start.startswith(mark):
            return encoding
    require(
        4 * start.count(0) < len(start),
        "path",
        expected="UTF-8 text, or UTF-16 with a byte-order mark",
        got=f"{path}, which has a zero in every few bytes (UTF-16 without its mark?)",
    )
    return "utf-8"


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Split text at line feeds only: JSON may hold other characters that Python calls line ends."""
    return _split(chunks, "\n")


def _jsonl_texts(path: Path, text_field: str | None) -> Iterator[str]:
    for number, line in enumerate(_lines(_decoded(path)), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"path: expected one JSON object per line, got {place} ({error})"
            ) from error
        require(
            isinstance(record, dict),
            "path",
            expected="one JSON object per line",
            got=f"{type(record).__name__} in {place}",
        )
        field = _choose_field(text_field, record, place)
        text = record[field]
        require(
            text is None or isinstance(text, str),
            "text_field",
            expected="a field that holds text",
            got=f"{field!r}, which holds {type(text).__name__} in {place}",
        )
        # JSON can spell half of a surrogate pair, which is not a character and has no encoding.
        yield (text or "").encode(errors="replace").decode()


def _parquet_texts(path: Path, text_field: str | None) -> Iterator[str]:
    try:
        file = _import_parquet().ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"path: expected a parquet file, got {path} ({error})") from error
    with file:
        field = _choose_field(text_field, file.schema_arrow.names, path)
        kind = file.schema_arrow.field(field).type
        require(
            str(kind) in ("string", "large_string", "string_view"),
            "text_field",
            expected="a column of strings",
            got=f"{field!r}, a column of {kind} in {path}",
        )
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=[field]).column(0).to_pylist()
            yield from (text or "" for text in rows)


def _import_parquet() -> Any:
    return import_extra("pyarrow.parquet", extra="run", purpose="reading a parquet file")


def _choose_field(text_field: str | None, present: Iterable[str], place: object) -> str:
    present = list(present)
    wanted = TEXT_FIELDS if text_field is None else (text_field,)
    for field in wanted:
        if field in present:
            return field
    raise ValueError(
        f"text_field: expected {' or '.join(map(repr, wanted))}, got only {_listed(present)} "
        f"in {place}; name the one that holds the text"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"


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
