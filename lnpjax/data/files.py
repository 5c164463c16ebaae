"""Files of data: which are read, in which order, and what text they hold.

Text is UTF-8, or what its byte-order mark says; the mark is no text. Files that end in `.gz` or
`.zst` are decompressed as they are read, in pieces of bounded size.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from lnpjax._base.checks import import_extra, require

_PLAIN = (".txt", ".jsonl", ".csv")
_COMPRESSED = (".gz", ".zst")
COLUMNAR = (".parquet", ".arrow")
"""Files of columns, which pyarrow reads."""
TEXT_EXTENSIONS = (
    *_PLAIN,
    *COLUMNAR,
    *(kind + compression for compression in _COMPRESSED for kind in _PLAIN),
)
"""The files that `read_documents` reads."""
TOKEN_EXTENSIONS = (".bin",)
"""The files that `read_tokens` reads."""
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file's byte-order mark says about the rest."""
_DOCUMENTATION = {"", ".md", ".rst"}
"""Extensions of files that lie next to data and are not data: left out without a warning."""
# What `datasets.save_to_disk` writes next to the data, and what its `map` keeps there for later.
_BOOKKEEPING = {"state.json", "dataset_info.json", "dataset_dict.json"}
_CACHED = re.compile(r"(cache|tmp).*\.arrow")
_HELD_OUT = {"val", "valid", "validation", "test", "dev", "eval"}
_CHUNK_BYTES = 16 * 2**20


def extension(path: str | Path, endings: Iterable[str] = TEXT_EXTENSIONS) -> str | None:
    """Return which of these endings a path has, in small or capital letters.

    Example:
        >>> extension("stories.JSONL.gz"), extension("stories.doc")
        ('.jsonl.gz', None)
    """
    name = Path(path).name.lower()
    return next((end for end in endings if name.endswith(end)), None)


def holds(path: str | Path, endings: Iterable[str]) -> bool:
    """Return whether a path is a file with such an ending, or a folder of them and none of text."""
    path, endings = Path(path), tuple(endings)
    if not path.is_dir():
        return extension(path, endings) is not None
    files = _visible_files(path)
    return any(extension(file, endings) for file in files) and not any(
        extension(file) for file in files
    )


def list_files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return a file, or the files of a folder and its subfolders in the order of relative paths.

    Hidden files and folders are left out, and so is the compressed copy of a file that lies next to
    it. A warning says what else is, and that a folder holds several splits.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the file or none of the folder has one of the endings.
    """
    listed = ", ".join(endings)
    require(
        path.exists(),
        "path",
        expected=f"an existing file ({listed}) or a folder of such files",
        got=path,
        error=FileNotFoundError,
    )
    if path.is_file():
        known = extension(path, endings) is not None
        require(known, "path", expected=f"a file ending in {listed}", got=path)
        return [path]
    candidates = [file for file in _visible_files(path) if file.name not in _BOOKKEEPING]
    files = [file for file in candidates if extension(file, endings) is not None]
    require(
        bool(files),
        "path",
        expected=f"a folder with at least one file ending in {listed}",
        got=f"{path} with {quoted({file.suffix or file.name for file in candidates})}",
    )
    cached = [file for file in files if _CACHED.fullmatch(file.name)]
    copies = [
        file
        for file in files
        if file.suffix.lower() in _COMPRESSED and file.with_suffix("") in files
    ]
    others = [file for file in candidates if file not in files]
    _warn_of_files_left_out(path, others, copies, cached)
    left = [file for file in files if file not in copies and file not in cached]
    _warn_of_splits(path, left)
    return left


def _visible_files(folder: Path) -> list[Path]:
    visible = (
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    return sorted(visible, key=lambda file: file.relative_to(folder).as_posix())


def _warn_of_files_left_out(
    folder: Path, others: list[Path], copies: list[Path], cached: list[Path]
) -> None:
    kinds = Counter(file.suffix for file in others if file.suffix.lower() not in _DOCUMENTATION)
    left_out = [f"{count} ending in {kind!r}" for kind, count in sorted(kinds.items())]
    left_out += [f"{file.name}, the compressed copy of {file.stem}" for file in copies]
    left_out += [f"{file.name}, a cache of datasets" for file in cached]
    if left_out:
        warnings.warn(
            f"path: not all files of {folder} were read: left out {'; '.join(left_out)}",
            stacklevel=4,
        )


def _warn_of_splits(folder: Path, files: list[Path]) -> None:
    """Say that data which others hold out are read with those to train on."""
    words = {
        word
        for file in files
        for word in re.split(r"[^a-z]+", file.relative_to(folder).as_posix().lower())
    }
    held_out = sorted(words & _HELD_OUT)
    if "train" in words and held_out:
        warnings.warn(
            f"path: files of several splits ({', '.join(['train', *held_out])}) of {folder} are "
            "read as one; name the file or folder of one to read it alone",
            stacklevel=4,
        )


def check_readers(files: Iterable[Path]) -> None:
    """Refuse files for which an optional package is missing, before anything is read.

    Raises:
        ImportError: if one is; the message says what to install.
    """
    for file in files:
        if file.suffix.lower() in (*COLUMNAR, ".zst"):
            import_arrow(file)


def import_arrow(file: Path, module: str = "pyarrow") -> Any:
    """Import pyarrow, or one of its modules, to read a file."""
    return import_extra(module, extra="run", purpose=f"reading {file.name}")


def decoded(path: Path) -> Iterator[str]:
    """Read text piece by piece.

    Raises:
        ValueError: if it has another encoding, or its compression is damaged.
    """
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


def unix_lines(chunks: Iterable[str]) -> Iterator[str]:
    r"""Turn the line ends of all systems into ``\n``, also those that two pieces share."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    # Without a decoder for bytes it translates text, which its annotation does not say.
    return (newlines.decode(cast(Any, chunk)) for chunk in chunks)


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with _opened(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, OSError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # of the system, not of what is in the file
            raise
        kind = "gzip" if path.suffix.lower() == ".gz" else "zst"
        raise ValueError(f"path: expected a whole {kind} file, got {path} ({error})") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        arrow = import_arrow(path)
        return arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")
    return path.open("rb")


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


def split(chunks: Iterable[str], separator: str, longest: int | None = None) -> Iterator[str]:
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


def quoted(names: Iterable[str]) -> str:
    """List names for a message.

    Example:
        >>> quoted({"b", "a"})
        "'a', 'b'"
    """
    return ", ".join(map(repr, sorted(names))) or "nothing"
