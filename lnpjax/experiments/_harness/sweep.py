"""Sweeps that can be stopped at any time: what is done is on disk and is not done again."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import gzip
import hashlib
import io
import json
import os
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lnpjax._base.checks import import_extra, require
from lnpjax._base.files import load_arrays, write_atomically
from lnpjax.runs import Row, differences, strict_json
from lnpjax.runs._lines import json_lines, null_to_nan
from lnpjax.runs._lock import Lock, refuse_links_in
from lnpjax.runs._reporters import for_terminal


class SweepProgress:
    """Is told how a sweep goes; this one keeps it to itself.

    Example:
        >>> progress = SweepProgress()
        >>> progress.start(2)
        >>> progress.begin("first")
        >>> progress.done("first", seconds=1.0)
        >>> progress.stop()
    """

    def start(self, num_units: int) -> None:
        """The sweep begins, with that many units in all."""

    def begin(self, name: str) -> None:
        """A unit is about to be computed."""

    def done(self, name: str, *, seconds: float | None = None) -> None:
        """A unit is there; `seconds` is None where it was on disk."""

    def stop(self) -> None:
        """The sweep has ended."""


class SweepLines(SweepProgress):
    """One line per computed unit.

    Example:
        >>> progress = SweepLines(sys.stdout)
        >>> progress.start(3)
        >>> progress.done("first")
        >>> progress.done("second", seconds=1.25)
        [2/3] second: 1.2 s
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream

    def start(self, num_units: int) -> None:
        """Begin to count."""
        self._done, self._num_units = 0, num_units

    def done(self, name: str, *, seconds: float | None = None) -> None:
        """Count, and print what was computed."""
        self._done += 1
        if seconds is not None:
            text = f"[{self._done}/{self._num_units}] {name}: {seconds:.1f} s"
            print(text, file=self._stream, flush=True)


class SweepBar(SweepProgress):
    """A progress bar: units done, the one at work, and the time left.

    Args:
        console: a `rich.console.Console`.

    Raises:
        ImportError: rich is not installed (the extra "run").
    """

    def __init__(self, console: Any) -> None:
        progress = import_extra("rich.progress", extra="run", purpose="the progress bar")
        self._progress = progress.Progress(
            progress.TextColumn("{task.completed}/{task.total}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.description}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("elapsed,"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            refresh_per_second=2,
        )

    def start(self, num_units: int) -> None:
        """Show the bar."""
        self._task = self._progress.add_task("", total=num_units)
        self._progress.start()

    def begin(self, name: str) -> None:
        """Show what is at work."""
        self._progress.update(self._task, description=name)

    def done(self, name: str, *, seconds: float | None = None) -> None:  # noqa: ARG002
        """Move the bar."""
        self._progress.advance(self._task)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def terminal_progress() -> SweepProgress:
    """A progress bar if standard error is a terminal, else lines.

    Raises:
        ImportError: rich is not installed (the extra "run").
    """
    return for_terminal(SweepBar, SweepLines)


Config = TypeVar("Config")
ROWS, ARRAYS, SUMS = "results.jsonl", "arrays.npz", "results.sha256"
UNITS_FOLDER = "units"


class UnitResult(NamedTuple):
    """What one unit of a sweep found.

    Attributes:
        rows: tidy rows: scalars and text by name, one observation each.
        arrays: what does not fit a row, by name.
    """

    rows: Sequence[Row]
    arrays: Mapping[str, np.ndarray] = types.MappingProxyType({})


class Sweep:
    """A folder with one result per unit of work, each written whole or not at all.

    `config.json` says what was measured; `units/NAME.jsonl` holds the rows of a unit and, where it
    has any, `units/NAME.npz` its arrays. `units/NAME.sha256`, in the format of `sha256sum`, is
    written last and says that the unit is done. A sweep that was killed and is started again with
    the same config computes only what is missing, and what is no longer as it was written.

    Nothing here keeps two processes from writing to one folder; `writing_alone` does.

    Args:
        folder: where; made if it does not exist.
        config: a dataclass of JSON values, tuples, and such dataclasses.
        progress: is told of every unit; silent by default.
        only: compute units whose names match this pattern (as of file names: "stories-*"), and of
            the others hand out what is on disk, or nothing; None for all.

    Raises:
        ValueError: if the folder holds a sweep with another config; the message names the field.

    Example:
        >>> import tempfile
        >>> @dataclasses.dataclass(frozen=True)
        ... class Sizes:
        ...     widths: tuple[int, ...] = (1, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):
        ...         sweep = Sweep(folder, Sizes())
        ...         for width in Sizes().widths:
        ...             done = sweep.unit(f"width-{width}",
        ...                               lambda: UnitResult([{"width": width}]))
        ...         print(sweep.num_computed, [row["width"] for row in sweep.rows()])
        2 [1, 2]
        0 [1, 2]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Any,
        *,
        progress: SweepProgress | None = None,
        only: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.progress = SweepProgress() if progress is None else progress
        self.num_computed = 0
        self._config, self._only = config, only
        self._results: dict[str, UnitResult] = {}
        file = self.folder / "config.json"
        given = config_to_json(config)
        if file.exists():
            _check_same(json.loads(file.read_text()), given, self.folder)
            return
        (self.folder / UNITS_FOLDER).mkdir(parents=True, exist_ok=True)
        write_atomically(file, strict_json(given, "config", indent=2) + "\n")

    def unit(self, name: str, compute: Callable[[], UnitResult]) -> UnitResult:
        """The result of a unit: from disk if it is there, else computed and stored.

        Args:
            name: of the unit and its files; letters, digits, ".", "_" and "-".
            compute: makes the result; must depend on the config and nothing else.

        Returns:
            The result as it was stored, so that a resumed sweep sees what the first one saw.

        Raises:
            ValueError: if the name is not fit for a file, or was used before.
        """
        fit = bool(name) and all(letter.isalnum() or letter in "._-" for letter in name)
        require(fit, "name", expected='letters, digits, ".", "_" and "-"', got=repr(name))
        require(name not in self._results, "name", expected="a new name per unit", got=repr(name))
        result = self.finished(name)
        if result is None and not self.wants(name):
            result = UnitResult([])
            self.progress.done(name)
        elif result is None:
            self.progress.begin(name)
            began = time.perf_counter()
            self._write(name, compute())
            result = self.finished(name)
            assert result is not None
            self.num_computed += 1
            self.progress.done(name, seconds=time.perf_counter() - began)
        else:
            self.progress.done(name)
        self._results[name] = result
        return result

    def wants(self, name: str) -> bool:
        """Whether a unit is one of those that are computed here."""
        return self._only is None or fnmatch.fnmatchcase(name, self._only)

    @property
    def asked_for(self) -> list[str]:
        """The names of the units asked for so far."""
        return list(self._results)

    def take_over(self, folder: str | os.PathLike[str]) -> int:
        """Copy the finished units of another folder that are missing here.

        So that processes, or machines, may share the work of a sweep, each with a folder of its
        own.

        Args:
            folder: of a sweep with the same config.

        Returns:
            How many were copied.

        Raises:
            FileNotFoundError: if there is no sweep in that folder.
            ValueError: if it is one with another config; the message names the field.
        """
        source = Path(folder)
        require(
            (source / "config.json").exists(),
            "folder",
            expected="a folder with config.json and units/, as a sweep leaves it",
            got=str(source),
            error=FileNotFoundError,
        )
        other = Sweep(source, self._config)
        names = sorted(file.stem for file in (source / UNITS_FOLDER).glob("*.sha256"))
        copied = 0
        for name in names:
            result = None if self.finished(name) is not None else other.finished(name)
            if result is not None:
                self._write(name, result)
                copied += 1
        return copied

    def rows(self, **where: Any) -> list[dict[str, Any]]:
        """The rows of the units asked for so far, each with its unit's name under "unit".

        Args:
            **where: values that columns must have.
        """
        rows = [
            {"unit": name, **row} for name, result in self._results.items() for row in result.rows
        ]
        return [row for row in rows if all(row.get(key) == value for key, value in where.items())]

    def arrays(self, name: str) -> Mapping[str, np.ndarray]:
        """The arrays of a unit asked for before."""
        return self._results[name].arrays

    def write_results(self) -> None:
        """Write all rows to `results.jsonl` and all arrays to `arrays.npz`, for `load`."""
        arrays = {
            f"{unit}/{name}": array
            for unit, result in self._results.items()
            for name, array in result.arrays.items()
        }
        (self.folder / SUMS).unlink(missing_ok=True)
        if arrays:
            write_atomically(self.folder / ARRAYS, _packed(arrays))
        write_atomically(self.folder / ROWS, json_lines(self.rows()))
        write_atomically(self.folder / SUMS, _checksums(self.folder / ROWS))

    def load(self) -> None:
        """Take the results from the files that `write_results` made, in place of the units' own.

        Rows may have been packed since, by ``gzip -n results.jsonl``.

        Raises:
            FileNotFoundError: if there are no rows.
            ValueError: if they are not those that were written.
        """
        plain, sums = self.folder / ROWS, self.folder / SUMS
        if plain.exists() and sums.exists():
            whole = sums.read_bytes() == _checksums(plain)
            require(whole, str(plain), expected="the rows as they were written", got="others")
        rows: dict[str, list[Row]] = {}
        packed = self.folder / f"{ROWS}.gz"
        content = gzip.decompress(packed.read_bytes()).decode() if packed.exists() else None
        for line in (content or plain.read_text()).splitlines():
            row = json.loads(line, object_hook=null_to_nan)
            rows.setdefault(row.pop("unit"), []).append(row)
        arrays: dict[str, dict[str, np.ndarray]] = {unit: {} for unit in rows}
        if (self.folder / ARRAYS).exists():
            for key, array in load_arrays(self.folder / ARRAYS).items():
                unit, _, name = key.partition("/")
                arrays.setdefault(unit, {})[name] = array
        self._results = {unit: UnitResult(rows.get(unit, []), arrays[unit]) for unit in arrays}

    def finished(self, name: str) -> UnitResult | None:
        """The result of a unit if it is on disk, as it was written; else None."""
        rows, arrays, sums = self._files(name)
        if not sums.exists():
            return None
        if sums.read_bytes() != _checksums(rows, arrays):
            text = f"{rows}: expected the unit as it was written, got another; it is computed again"
            warnings.warn(text, stacklevel=3)
            return None
        found = [json.loads(line, object_hook=null_to_nan) for line in rows.open()]
        return UnitResult(found, load_arrays(arrays)) if arrays.exists() else UnitResult(found)

    def _write(self, name: str, result: UnitResult) -> None:
        rows, arrays, sums = self._files(name)
        for file in (sums, arrays):
            file.unlink(missing_ok=True)
        write_atomically(rows, json_lines(result.rows))
        if result.arrays:
            write_atomically(arrays, _packed(result.arrays))
        write_atomically(sums, _checksums(rows, arrays))

    def _files(self, name: str) -> tuple[Path, Path, Path]:
        folder = self.folder / UNITS_FOLDER
        return folder / f"{name}.jsonl", folder / f"{name}.npz", folder / f"{name}.sha256"


@contextlib.contextmanager
def writing_alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing to a sweep's folder, which is made if need be.

    Args:
        folder: of the sweep.

    Raises:
        RuntimeError: if another process is writing to it.
        OSError: if a file of the sweep is a link, so that another would be written.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    refuse_links_in(place)
    refuse_links_in(place / UNITS_FOLDER)
    lock = Lock(place)
    try:
        yield
    finally:
        lock.release()


def _checksums(*files: Path) -> bytes:
    """SHA-256 of the files that are there, in the format of `sha256sum`."""
    lines = (
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in files
        if file.exists()
    )
    return "".join(lines).encode()


def config_to_json(config: Any) -> dict[str, Any]:
    """A config as JSON values.

    Args:
        config: a dataclass of JSON values, tuples, and such dataclasses.

    Returns:
        Nested dictionaries, with lists for tuples; `lnpjax._base.configs.decode` reads them back.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Sizes:
        ...     widths: tuple[int, ...] = (1, 2)
        >>> config_to_json(Sizes())
        {'widths': [1, 2]}
    """
    require(
        dataclasses.is_dataclass(config) and not isinstance(config, type),
        "config",
        expected="a dataclass",
        got=type(config).__name__,
    )
    return json.loads(strict_json(dataclasses.asdict(config), "config"))


def _check_same(saved: Row, given: Row, folder: Path) -> None:
    for name, was, now in differences(saved, given):
        expected = f"{was!r}, as in the sweep that {folder} holds (or another folder)"
        require(False, f"config: {name}", expected=expected, got=repr(now))


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()
