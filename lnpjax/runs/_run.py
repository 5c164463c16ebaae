"""A run on disk: one folder that is appended to, survives SIGKILL, resumes exactly, is read back.

    config.json       what was run; written once
    metrics.jsonl     one row (a JSON object) per event; strict JSON: null for a non-finite number
    sessions.jsonl    one row per process that went on with the run: what it did, and how fast
    spectra/*.npz     arrays measured at some step
    checkpoints/      the last complete checkpoints, a folder per step; the arrays are Orbax's
    figures/*.png     drawn from the rows
    cut.jsonl         rows that a resume took out of metrics.jsonl, since they are made again
    .lock             held while a process writes to the run; released when that process dies

`lnpjax.runs._rows` says what the rows and arrays are.

Why a killed run loses and repeats nothing: a checkpoint records how many bytes of `metrics.jsonl`
it accounts for, those bytes are on disk before it is, and it appears under its final name by one
rename, once it has been read back. `Run.restore` takes the last such checkpoint, copies the rows
after those bytes to `cut.jsonl`, and cuts `metrics.jsonl` to those bytes by one `truncate`. A kill
before the rename leaves the checkpoint before it in force; a kill after it, or between reading the
checkpoint and the cut, leaves a file that the next `restore` cuts to the same byte. The training
loop's part: everything the next step depends on is in the saved state or follows from the step
number. It starts with

    step, state, extra = run.restore(initial) or Checkpoint(0, initial, {})

Why a damaged run is not trusted: a checkpoint records checksums of its arrays and of the rows that
it accounts for. `Run.restore` verifies them before it changes anything, and goes back to the
checkpoint before a damaged one, from which the same steps are made again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import require
from lnpjax._base.files import (
    append_synced,
    discard,
    load_arrays,
    set_aside,
    sync,
    write_atomically,
)
from lnpjax.runs._checkpoints import (
    DamagedError,
    check_same_leaves,
    checksum,
    describe,
    holds_numbers,
    is_key,
    named_leaves,
    read_arrays,
    read_metadata,
    stored_names,
    to_array,
    to_leaf,
    write_arrays,
    write_metadata,
)
from lnpjax.runs._lines import append_line, open_lines, read_lines, require_kind, strict_json
from lnpjax.runs._lock import Lock, check_own_files, refuse_link
from lnpjax.runs._rows import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    CUT_FILE,
    FIGURES_FOLDER,
    METRICS_FILE,
    SESSIONS_FILE,
    SPECTRA_FOLDER,
    Row,
    columns,
    differences,
)

CHECKPOINTS_KEPT = 2


class Checkpoint(NamedTuple):
    """A restored checkpoint: the step, the state and the extra values that were saved.

    Example:
        >>> step, state, extra = Checkpoint(400, {"w": np.ones(2)}, {"note": "warm"})
        >>> step, extra
        (400, {'note': 'warm'})
    """

    step: int
    state: PyTree
    extra: dict[str, Any]


class Run:
    """A run folder, made by `Run.create` or `Run.open`, best as a context manager.

    Reading needs no permission and disturbs no writer. The first write takes the run's lock, held
    until `close` or the death of the process; a second writer is refused, and so is a folder with
    links to files elsewhere. POSIX systems only.

    Example:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp(), {"num_parameters": 2}) as run:
        ...     run.append({"kind": "train", "step": 0, "loss": float("inf")})
        ...     run.save(1, {"w": np.ones(2)}, {"note": "first"})
        ...     run.append({"kind": "train", "step": 1, "loss": 0.5})  # lost in a kill, redone
        ...     step, state, extra = run.restore({"w": np.zeros(2)})
        ...     print(step, state, extra, run.rows("train"))
        1 {'w': array([1., 1.])} {'note': 'first'} [{'kind': 'train', 'step': 0, 'loss': nan}]
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._lock: Lock | None = None
        self._metrics: FileIO | None = None

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], exist_ok: bool = False
    ) -> Self:
        """Start a run in a new or empty folder, and take its lock.

        Args:
            path: the folder.
            config: what is run: anything that strict JSON can hold. Those of `lnpjax train` have
                "lnpjax_version", "num_parameters", and sections "model", "data", "training" and
                "measurement".
            exist_ok: open the run that is there already, provided its config is this one.

        Returns:
            The run.

        Raises:
            FileExistsError: if the folder holds a run (and not `exist_ok`), or other files.
            ValueError: if `config` is not strict JSON, or differs from that of the existing run;
                the message names the key.
            RuntimeError: if another process is writing to the run.
        """
        text = strict_json(config, "config", indent=2) + "\n"
        folder = Path(path).absolute()
        is_run = (folder / CONFIG_FILE).exists()
        present = f"{folder}, " + ("a run" if is_run else "which holds other files")
        expected = "a new or empty folder (Run.open goes on with a run)"
        usable = (is_run and exist_ok) or not folder.exists() or (folder.is_dir() and not is_run)
        require(usable, "path", expected=expected, got=present, error=FileExistsError)
        if is_run:
            run = cls.open(folder)
            _check_same_config(run.config, json.loads(text), folder)
            run._acquire()
            return run
        folder.mkdir(parents=True, exist_ok=True)
        empty = all(entry.name.startswith(".") for entry in folder.iterdir())
        require(empty, "path", expected=expected, got=present, error=FileExistsError)
        run = cls(folder, json.loads(text))
        run._acquire()
        write_atomically(folder / CONFIG_FILE, text)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing run, to read it or to go on with it, and check its files.

        Args:
            path: the folder.

        Returns:
            The run; its `config` is read.

        Raises:
            FileNotFoundError: if there is no such folder, or it has no `config.json`.
            ValueError: if `config.json` or a row of `metrics.jsonl` is corrupt; the message names
                file and line. A last line without its newline does not count: a kill in mid-write
                leaves it, and it is dropped.
        """
        folder = Path(path).absolute()
        why = f"has no {CONFIG_FILE}" if folder.is_dir() else "is not a folder"
        require(
            (folder / CONFIG_FILE).is_file(),
            "path",
            expected="a run folder",
            got=f"{folder}, which {why}",
            error=FileNotFoundError,
        )
        run = cls(folder, _read_json_object(folder / CONFIG_FILE))
        run.rows()
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock and close the files; every row is already written."""
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            self._lock.release()
        self._metrics = self._lock = None

    def append(self, row: Row) -> None:
        """Append a row to `metrics.jsonl` in one unbuffered write, which no later kill undoes.

        Args:
            row: "kind" (text), and scalars (of Python, numpy or jax; text; None for "not
                measured") or mappings of them. A non-finite number is written as null and read
                back as NaN.

        Raises:
            TypeError: if a value is not a scalar; the message names the key.
            ValueError: if there is no "kind".
            RuntimeError: if another process is writing to the run.
        """
        require_kind(row)
        append_line(self._open_metrics(), row)

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the rows in the order in which they were appended.

        Args:
            kind: which rows; all by default.

        Returns:
            One dictionary per row.

        Raises:
            ValueError: if a row is corrupt; the message names file and line.
        """
        rows = read_lines(self.path / METRICS_FILE)
        return [row for row in rows if kind is None or row["kind"] == kind]

    def columns(self, kind: str) -> dict[str, np.ndarray]:
        """Read the rows of one kind as arrays over the rows (see `lnpjax.runs.columns`)."""
        return columns(self.rows(), kind)

    def append_session(self, row: Row) -> None:
        """Append a row to `sessions.jsonl`: what a process did for the run, and how fast.

        Apart from the metrics, because no two processes take equally long: a run that was killed
        and resumed has the same metrics as one that was not.

        Args:
            row: "kind" (text), and scalars or mappings of them, as `append` takes them.

        Raises:
            TypeError: if a value is not a scalar; the message names the key.
            ValueError: if there is no "kind".
            RuntimeError: if another process is writing to the run.
        """
        require_kind(row)
        self._acquire()
        with open_lines(self.path / SESSIONS_FILE) as file:
            append_line(file, row)

    def sessions(self) -> list[dict[str, Any]]:
        """Read the rows of `sessions.jsonl`, one per process that was not killed.

        Raises:
            ValueError: if a row is corrupt; the message names file and line.
        """
        return read_lines(self.path / SESSIONS_FILE)

    def save(self, step: int, state: PyTree, extra: Mapping[str, Any] | None = None) -> None:
        """Save a checkpoint that accounts for every row so far; it is on disk when this returns.

        It is read back before it counts. The last two checkpoints are kept, and those of the steps
        that the config lists as "checkpoints_at"; one of the same step is replaced.

        Args:
            step: the number of steps done; not below the last checkpoint's.
            state: a pytree of jax arrays (however sharded), `jax.random.key` arrays, numpy arrays
                and Python numbers, all of which come back bit for bit.
            extra: small values to save with it: anything that strict JSON can hold.

        Raises:
            TypeError: if a leaf is of another type; the message names it.
            ValueError: if `step` is below the last checkpoint's, or `extra` is not strict JSON.
            OSError: if it cannot be stored; the checkpoints before it stay.
            RuntimeError: if another process is writing to the run.
        """
        last = max(self.checkpoint_steps(), default=0)
        require(step >= last, "step", expected=f"at least {last}, the last saved", got=step)
        leaves = named_leaves(state)
        metadata: dict[str, Any] = {
            "step": int(step),
            "leaves": {name: describe(leaf, name) for name, leaf in leaves.items()},
            "keys": {n: str(jax.random.key_impl(x)) for n, x in leaves.items() if is_key(x)},
            "weak": [name for name, leaf in leaves.items() if getattr(leaf, "weak_type", False)],
            "names": stored_names(state),
            "extra": dict(extra or {}),
        }
        strict_json(metadata["extra"], "extra")
        os.fsync(self._open_metrics().fileno())
        rows = (self.path / METRICS_FILE).read_bytes()
        metadata |= {"metrics_bytes": len(rows), "metrics_sha256": checksum(rows)}

        folder = self._checkpoint_folder(step)
        temporary = folder.with_name(".saving")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        named = zip(metadata["names"], leaves.values(), strict=True)
        arrays = {name: to_array(leaf) for name, leaf in named}
        try:
            metadata["arrays_sha256"] = write_arrays(temporary / "arrays", arrays)
            write_metadata(temporary / "checkpoint.json", metadata)
            sync(temporary, *temporary.rglob("*"))
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
            raise
        if folder.exists():
            discard(folder)
        os.rename(temporary, folder)
        sync(folder.parent)
        self._discard_old_checkpoints()

    def restore(
        self, abstract_state: PyTree, *, check: Callable[[Checkpoint], object] | None = None
    ) -> Checkpoint | None:
        """Go back to the last sound checkpoint: return it, and take out the rows after it.

        These rows are appended to `cut.jsonl` first. A damaged checkpoint is renamed, with a
        warning. Without a checkpoint the run starts over, and every row is taken out, with a
        warning.

        Args:
            abstract_state: a state with the tree, shapes and dtypes that were saved, of arrays or
                `jax.ShapeDtypeStruct`. Leaves come back as its leaves are: numpy as numpy, jax in
                the same sharding.
            check: called with the checkpoint before anything is changed; what it raises is raised.

        Returns:
            `(step, state, extra)`, or None if there is no checkpoint.

        Raises:
            ValueError: if the checkpoint has another tree, shape or dtype (the message names the
                first leaf that differs), or every checkpoint is damaged. Nothing is changed then.
            RuntimeError: if another process is writing to the run.
        """
        self._acquire()
        file = self.path / METRICS_FILE
        rows = file.read_bytes() if file.exists() else b""
        checkpoint, kept, damaged = self._last_sound_checkpoint(abstract_state, rows)
        if checkpoint is not None and check is not None:
            check(checkpoint)
        if checkpoint is None and rows:
            self._warn(f"no checkpoint: the run starts over, and its rows go to {CUT_FILE}")
        for step, damage in damaged.items():
            assert checkpoint is not None
            self._warn(f"{damage}; going on from checkpoint {checkpoint.step}")
            folder = self._checkpoint_folder(step)
            set_aside(folder, folder.with_name(f"{folder.name}.damaged"))
        if rows[kept:]:
            append_synced(self.path / CUT_FILE, rows[kept:].removesuffix(b"\n") + b"\n")
            with file.open("r+b") as stream:
                os.ftruncate(stream.fileno(), kept)
                os.fsync(stream.fileno())
        self._open_metrics()
        self._discard_old_checkpoints()  # a kill may have come before `save` did
        return checkpoint

    def _last_sound_checkpoint(
        self, abstract_state: PyTree, rows: bytes
    ) -> tuple[Checkpoint | None, int, dict[int, DamagedError]]:
        """Return it, the bytes of rows that it accounts for, and what is wrong with later ones."""
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.checkpoint_steps()):
            try:
                kept = self._check_rows(step, rows)
                return self.read_checkpoint(abstract_state, step=step), kept, damaged
            except DamagedError as error:
                damaged[step] = error
        if damaged:
            raise damaged[max(damaged)]
        return None, 0, {}

    def _check_rows(self, step: int, rows: bytes) -> int:
        """Return how many bytes of the rows a checkpoint accounts for, if they are still those."""
        metadata = self._checkpoint_metadata(step)
        kept = metadata["metrics_bytes"]
        file, accounted = str(self.path / METRICS_FILE), f"that checkpoint {step} accounts for"
        expected, got = f"the {kept} bytes {accounted}", f"{len(rows)} bytes"
        require(0 <= kept <= len(rows), file, expected=expected, got=got, error=DamagedError)
        same = metadata.get("metrics_sha256") in (None, checksum(rows[:kept]))
        whole = not kept or rows[:kept].endswith(b"\n")
        expected, got = f"the rows {accounted} (put a copy of them back)", "others"
        require(same and whole, file, expected=expected, got=got, error=DamagedError)
        return kept

    def check_rows(self) -> None:
        """Compare the rows with those that the last checkpoint accounts for; change nothing.

        Raises:
            ValueError: if they are others, or the checkpoint is damaged.
        """
        file = self.path / METRICS_FILE
        for step in self.checkpoint_steps()[-1:]:
            self._check_rows(step, file.read_bytes() if file.exists() else b"")

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self.path}: {text}", stacklevel=3)

    def read_checkpoint(
        self, abstract_state: PyTree, *, step: int | None = None
    ) -> Checkpoint | None:
        """Read a checkpoint and change nothing: for analysis during the training or after it.

        Args:
            abstract_state: a state with the tree, shapes and dtypes that were saved, of arrays or
                `jax.ShapeDtypeStruct`.
            step: one of `checkpoint_steps()`; the last by default.

        Returns:
            `(step, state, extra)`, or None if there is no checkpoint.

        Raises:
            ValueError: if there is no checkpoint of that step, if it has another tree, shape or
                dtype, or if it is damaged.
        """
        last = self._metadata_of(step)
        if last is None:
            return None
        step, metadata = last
        targets = named_leaves(abstract_state)
        described = {name: describe(leaf, name) for name, leaf in targets.items()}
        check_same_leaves(described, metadata["leaves"], f"checkpoint {step} of {self.path}")
        state = self._read_leaves(step, metadata, abstract_state, targets)
        return Checkpoint(step, state, metadata["extra"])

    def read_part(
        self, part: str, abstract_part: PyTree, *, step: int | None = None
    ) -> Checkpoint | None:
        """Read a part of the state of a checkpoint, such as its parameters, and change nothing.

        Args:
            part: the attribute or key of the state that is read.
            abstract_part: a tree with the shapes and dtypes of that part.
            step: one of `checkpoint_steps()`; the last by default.

        Returns:
            `(step, part, extra)`, or None if there is no checkpoint.

        Raises:
            ValueError: if there is no checkpoint of that step, if its part has another tree, shape
                or dtype, or if it is damaged.
        """
        last = self._metadata_of(step)
        if last is None:
            return None
        step, metadata = last
        saved: dict[str, str] = metadata["leaves"]
        prefixes = (f"state.{part}", f"state[{part!r}]")
        used = next((p for p in prefixes if any(_under(name, p) for name in saved)), prefixes[0])
        within = named_leaves(abstract_part).items()
        targets = {used + name.removeprefix("state"): leaf for name, leaf in within}
        described = {name: describe(leaf, name) for name, leaf in targets.items()}
        there = {name: description for name, description in saved.items() if _under(name, used)}
        check_same_leaves(described, there, f"checkpoint {step} of {self.path}")
        read = self._read_leaves(step, metadata, abstract_part, targets)
        return Checkpoint(step, read, metadata["extra"])

    def _metadata_of(self, step: int | None) -> tuple[int, dict[str, Any]] | None:
        steps = self.checkpoint_steps()
        require(step is None or step in steps, "step", expected=f"one of {steps}", got=step)
        if not steps:
            return None
        step = steps[-1] if step is None else step
        return step, self._checkpoint_metadata(step)

    def _read_leaves(
        self, step: int, metadata: dict[str, Any], abstract: PyTree, targets: dict[str, Any]
    ) -> PyTree:
        """Read the arrays of a checkpoint; return a tree of those that are asked for."""
        saved: dict[str, str] = metadata["leaves"]
        numbers = [str(i) for i in range(len(saved))]  # what earlier versions called them
        stored_as = dict(zip(saved, metadata.get("names", numbers), strict=True))
        arrays = read_arrays(
            self._checkpoint_folder(step) / "arrays",
            {stored_as[n]: targets.get(n) for n, what in saved.items() if holds_numbers(what)},
            metadata.get("arrays_sha256", {}),
        )
        leaves = [
            to_leaf(
                arrays.get(stored_as[name]),
                target,
                key=metadata["keys"].get(name),
                weak=name in metadata["weak"],
            )
            for name, target in targets.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

    def checkpoint_steps(self) -> list[int]:
        """List the steps of the complete checkpoints, ascending."""
        folders = (self.path / CHECKPOINTS_FOLDER).glob("[0-9]*")
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())

    def _discard_old_checkpoints(self) -> None:
        kept = self.config.get("checkpoints_kept", CHECKPOINTS_KEPT)
        pinned = set(self.config.get("checkpoints_at") or ())
        for step in self.checkpoint_steps()[:-kept]:
            if step not in pinned:
                discard(self._checkpoint_folder(step))

    def _checkpoint_folder(self, step: int) -> Path:
        return self.path / CHECKPOINTS_FOLDER / f"{step:010d}"

    def _checkpoint_metadata(self, step: int) -> dict[str, Any]:
        return read_metadata(self._checkpoint_folder(step) / "checkpoint.json", step)

    def save_spectrum(self, name: str, /, **arrays: Any) -> Path:
        """Write arrays to `spectra/NAME.npz`, whole or not at all; one of that name is replaced.

        The file is on disk when this returns.

        Args:
            name: letters, digits, ".", "_" and "-".
            **arrays: numpy or jax arrays. What numpy has no dtype for (bfloat16) is widened to
                float32.

        Returns:
            The path of the file.

        Raises:
            ValueError: if the name has other characters, or an array holds objects or is named
                "file", which numpy keeps for itself.
        """
        file = self._file(SPECTRA_FOLDER, name, ".npz")
        require("file" not in arrays, "arrays", expected='another name than "file"', got="that")
        host: dict[str, Any] = {key: np.asarray(array) for key, array in arrays.items()}
        for key, array in host.items():
            require(array.dtype.kind != "O", key, expected="an array of numbers", got="objects")
            if array.dtype.kind == "V":
                host[key] = array.astype(np.float32)
        content = BytesIO()
        np.savez(content, **host)
        write_atomically(file, content.getvalue())
        return file

    def spectrum(self, name: str) -> dict[str, np.ndarray]:
        """Read the arrays of `spectra/NAME.npz`, by their names.

        Raises:
            FileNotFoundError: if there is no such file; the message lists those there are.
            ValueError: if the file is damaged.
        """
        names = self.spectra()
        expected = f"one of the run's spectra, {names}"
        require(name in names, "name", expected=expected, got=repr(name), error=FileNotFoundError)
        return load_arrays(self.path / SPECTRA_FOLDER / f"{name}.npz")

    def spectra(self) -> list[str]:
        """List the names of the saved spectra, sorted."""
        return sorted(file.stem for file in (self.path / SPECTRA_FOLDER).glob("[!.]*.npz"))

    def figure_path(self, name: str) -> Path:
        """Return the path `figures/NAME.png`, and make its folder.

        Raises:
            OSError: if it is a link to a file elsewhere.
        """
        return self._file(FIGURES_FOLDER, name, ".png")

    def _file(self, folder: str, name: str, suffix: str) -> Path:
        good = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
        require(good, "name", expected='letters, digits, ".", "_" and "-"', got=repr(name))
        file = self.path / folder / (name + suffix)
        for path in (file.parent, file):
            refuse_link(path)
        file.parent.mkdir(exist_ok=True)
        return file

    def _acquire(self) -> None:
        if self._lock is None:
            check_own_files(self.path)
            self._lock = Lock(self.path)

    def _open_metrics(self) -> FileIO:
        if self._metrics is None:
            self._acquire()
            self._metrics = open_lines(self.path / METRICS_FILE)
        return self._metrics


def _under(name: str, prefix: str) -> bool:
    """Return whether a leaf is a part of the state, or in it."""
    return name == prefix or name.startswith((f"{prefix}.", f"{prefix}["))


def _read_json_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
        require(isinstance(value, dict), "top level", expected="an object", got=value)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a JSON object, got: {error}") from error
    return value


def _check_same_config(saved: Row, given: Row, folder: Path) -> None:
    for name, was, now in differences(saved, given):
        expected = f"that of the existing run {folder}, where {name} is {was!r}"
        require(False, "config", expected=expected, got=repr(now))
