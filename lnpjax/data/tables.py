"""Documents in files that have fields: JSON lines, comma-separated values, Parquet and Arrow."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lnpjax._base.checks import require
from lnpjax.data.files import decoded, import_arrow, quoted, split, unix_lines

TEXT_FIELDS = ("text", "story")
"""Fields looked for where none is named, in this order."""
LONGEST_FIELD = 2**26
"""Characters of a field of a `.csv` file; a quotation mark that nothing closes goes on to there."""
LONGEST_LINE = 2**28
"""Characters of a line of a `.jsonl` file that are read: a few bytes of `.gz` can claim more."""
_ROWS_AT_ONCE = 1024
_ARROW_FILE = b"ARROW1"
"""How a file of Arrow's begins that has a footer; other `.arrow` files are streams."""


def jsonl_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """Read the texts of a `.jsonl` file, compressed or not.

    Raises:
        ValueError: while reading, if a line is not an object, or its field is missing or not text.
    """
    # At line feeds only: JSON may hold other characters that Python calls line ends.
    for number, line in enumerate(split(decoded(path), "\n", LONGEST_LINE), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
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


def csv_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """Read the texts of a `.csv` file, compressed or not, whose first row names the columns.

    Raises:
        ValueError: while reading, if there is no such column, a row has another number of fields,
            or a quotation mark is not closed.
    """
    lines = (line + "\n" for line in split(unix_lines(decoded(path)), "\n"))
    rows = _csv_rows(csv.reader(lines, strict=True), path)
    names, _ = next(rows, ([], 0))
    column = names.index(_choose_field(text_field, names, path))
    for row, line in rows:
        require(
            len(row) == len(names),
            "path",
            expected=f"{len(names)} fields in each row, as many as the first names",
            got=f"{len(row)} in {path}, line {line}",
        )
        yield row[column]


def _csv_rows(reader: Any, path: Path) -> Iterator[tuple[list[str], int]]:
    """Return the rows that are not empty, with the number of the line that each ends in."""
    while True:
        usual = csv.field_size_limit(LONGEST_FIELD)  # one for the whole process
        try:
            row = next(reader, None)
        except csv.Error as error:
            place = f"{path}, line {reader.line_num}"
            raise ValueError(
                f"path: expected comma-separated values, got {place} ({error})"
            ) from error
        finally:
            csv.field_size_limit(usual)
        if row is None:
            return
        if row:
            yield row, reader.line_num


def column_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """Read the texts of a `.parquet` or `.arrow` file, some rows at a time.

    Raises:
        ValueError: while reading, if there is no such column, it does not hold text, or the file is
            damaged.
        ImportError: if pyarrow is missing.
    """
    arrow = import_arrow(path)
    try:
        schema, batches = _open_columns(path)
        field = _choose_field(text_field, schema.names, path)
        kind = schema.field(field).type
        require(
            str(kind) in ("string", "large_string", "string_view"),
            "text_field",
            expected="a column of strings",
            got=f"{field!r}, a column of {kind} in {path}",
        )
        for batch in batches(field):
            batch.validate(full=True)  # else offsets of a damaged file are followed anywhere
            yield from (text or "" for text in batch.column(field).to_pylist())
    except (arrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:  # of the system, not of what is in the file
            raise
        kind = "a parquet file" if path.suffix.lower() == ".parquet" else "an Arrow file or stream"
        raise ValueError(f"path: expected {kind}, got {path} ({error})") from error


def _open_columns(path: Path) -> tuple[Any, Any]:
    """Return the schema of a file, and what reads the batches of a column."""
    arrow = import_arrow(path)
    is_parquet = path.suffix.lower() == ".parquet"
    with path.open("rb") as file:
        is_stream = not is_parquet and not file.read(len(_ARROW_FILE)).startswith(_ARROW_FILE)
    if is_stream:
        stream = arrow.ipc.open_stream(arrow.memory_map(str(path)))
        return stream.schema, lambda _: stream
    files = import_arrow(path, "pyarrow.dataset").dataset(
        str(path),
        format="parquet" if is_parquet else "ipc",
        filesystem=import_arrow(path, "pyarrow.fs").LocalFileSystem(use_mmap=True),
    )
    return files.schema, lambda field: files.to_batches(
        columns=[field], batch_size=_ROWS_AT_ONCE, batch_readahead=1, fragment_readahead=1
    )


def _choose_field(text_field: str | None, present: Iterable[str], place: object) -> str:
    present = list(present)
    wanted = TEXT_FIELDS if text_field is None else (text_field,)
    for field in wanted:
        if field in present:
            return field
    raise ValueError(
        f"text_field: expected {' or '.join(map(repr, wanted))}, got only {quoted(present)} "
        f"in {place}; name the one that holds the text"
    )
