"""A run on disk: one folder that is appended to, survives SIGKILL, resumes exactly, is read back.

    config.json       what was run; written once
    metrics.jsonl     one row (a JSON object) per event; strict JSON: null for a non-finite number
    sessions.jsonl    one row per process that went on with the run: what it did, and how fast
    spectra/*.npz     arrays measured at some step
    checkpoints/      the last complete checkpoints, a folder per step; the arrays are Orbax's
    figures/*.png     drawn from the rows
    .lock             held while a process writes to the run; released when that process dies

`lnpjax.runs._rows` says what the rows and arrays are.

Why a killed run loses and repeats nothing: a checkpoint records how many bytes of `metrics.jsonl`
it accounts for, those bytes are on disk before it is, and it appears under its final name by one
rename. `Run.restore` takes the last such checkpoint and cuts `metrics.jsonl` to those bytes by one
`truncate`. A kill before the rename leaves the checkpoint before it in force; a kill after it, or
between reading the checkpoint and the cut, leaves a file that the next `restore` cuts to the same
byte. The training loop's part: everything the next step depends on is in the saved state or
follows from the step number. It starts with

    step, state, extra = run.restore(initial) or Checkpoint(0, initial, {})
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import require
from lnpjax._base.files import discard, sync, write_atomically
from lnpjax.runs._checkpoints import (
    check_same_leaves,
    describe,
    is_key,
    named_leaves,
    read_arrays,
    to_array,
    to_leaf,
    write_arrays,
)
from lnpjax.runs._lines import append_line, open_lines, read_lines, require_kind, strict_json
from lnpjax.runs._rows import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
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
    until `close` or the death of the process; a second writer is refused. POSIX systems only.

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
        self._lock: FileIO | None = None
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
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()
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

        The last two checkpoints are kept; one of the same step is replaced.

        Args:
            step: the number of steps done; not below the last checkpoint's.
            state: a pytree of jax arrays (however sharded), `jax.random.key` arrays, numpy arrays
                and Python numbers, all of which come back bit for bit.
            extra: small values to save with it: anything that strict JSON can hold.

        Raises:
            TypeError: if a leaf is of another type; the message names it.
            ValueError: if `step` is below the last checkpoint's, or `extra` is not strict JSON.
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
            "extra": dict(extra or {}),
        }
        strict_json(metadata["extra"], "extra")
        metrics = self._open_metrics().fileno()
        os.fsync(metrics)
        metadata["metrics_bytes"] = os.fstat(metrics).st_size

        temporary = self._checkpoint_folder(step).with_name(".saving")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        arrays = {str(i): to_array(leaf) for i, leaf in enumerate(leaves.values())}
        write_arrays(temporary / "arrays", arrays)
        write_atomically(temporary / "checkpoint.json", strict_json(metadata, "extra"))
        sync(temporary, *temporary.rglob("*"))
        if self._checkpoint_folder(step).exists():
            discard(self._checkpoint_folder(step))
        os.rename(temporary, self._checkpoint_folder(step))
        sync(temporary.parent)
        self._discard_old_checkpoints()

    def restore(self, abstract_state: PyTree) -> Checkpoint | None:
        """Go back to the last complete checkpoint: return it, and cut the rows after it.

        Without a checkpoint every row is cut, since the run starts over.

        Args:
            abstract_state: a state with the tree, shapes and dtypes that were saved, of arrays or
                `jax.ShapeDtypeStruct`. Leaves come back as its leaves are: numpy as numpy, jax in
                the same sharding.

        Returns:
            `(step, state, extra)`, or None if there is no checkpoint.

        Raises:
            ValueError: if the checkpoint has another tree, shape or dtype (the message names the
                first leaf that differs), or is corrupt. Nothing is cut then.
            RuntimeError: if another process is writing to the run.
        """
        metrics = self._open_metrics().fileno()
        checkpoint = self.read_checkpoint(abstract_state)
        length, kept = os.fstat(metrics).st_size, 0
        if checkpoint is not None:
            kept = self._checkpoint_metadata(checkpoint.step)["metrics_bytes"]
            expected = f"the {kept} bytes that checkpoint {checkpoint.step} accounts for"
            file = str(self.path / METRICS_FILE)
            require(length >= kept, file, expected=expected, got=f"{length} bytes")
        os.ftruncate(metrics, kept)
        os.fsync(metrics)
        self._discard_old_checkpoints()  # a kill may have come before `save` did
        return checkpoint

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
                dtype, or if it is corrupt.
        """
        steps = self.checkpoint_steps()
        require(step is None or step in steps, "step", expected=f"one of {steps}", got=step)
        if not steps:
            return None
        step = steps[-1] if step is None else step
        metadata = self._checkpoint_metadata(step)
        targets = named_leaves(abstract_state)
        described = {name: describe(leaf, name) for name, leaf in targets.items()}
        check_same_leaves(described, metadata["leaves"], f"checkpoint {step} of {self.path}")
        arrays = read_arrays(self._checkpoint_folder(step) / "arrays", list(targets.values()))
        leaves = [
            to_leaf(array, target, key=metadata["keys"].get(name), weak=name in metadata["weak"])
            for array, (name, target) in zip(arrays, targets.items(), strict=True)
        ]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        return Checkpoint(step, state, metadata["extra"])

    def checkpoint_steps(self) -> list[int]:
        """List the steps of the complete checkpoints, ascending."""
        folders = (self.path / CHECKPOINTS_FOLDER).glob("[0-9]*")
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())

    def _discard_old_checkpoints(self) -> None:
        kept = self.config.get("checkpoints_kept", CHECKPOINTS_KEPT)
        for step in self.checkpoint_steps()[:-kept]:
            discard(self._checkpoint_folder(step))

    def _checkpoint_folder(self, step: int) -> Path:
        return self.path / CHECKPOINTS_FOLDER / f"{step:010d}"

    def _checkpoint_metadata(self, step: int) -> dict[str, Any]:
        return _read_json_object(self._checkpoint_folder(step) / "checkpoint.json")

    def save_spectrum(self, name: str, /, **arrays: Any) -> Path:
        """Write arrays to `spectra/NAME.npz`, whole or not at all; one of that name is replaced.

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
        temporary = file.with_name(f".{file.name}.tmp")
        with temporary.open("wb") as stream:
            np.savez(stream, **host)
        os.replace(temporary, file)
        return file

    def spectrum(self, name: str) -> dict[str, np.ndarray]:
        """Read the arrays of `spectra/NAME.npz`, by their names.

        Raises:
            FileNotFoundError: if there is no such file; the message lists those there are.
        """
        names = self.spectra()
        expected = f"one of the run's spectra, {names}"
        require(name in names, "name", expected=expected, got=repr(name), error=FileNotFoundError)
        with np.load(self.path / SPECTRA_FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def spectra(self) -> list[str]:
        """List the names of the saved spectra, sorted."""
        return sorted(file.stem for file in (self.path / SPECTRA_FOLDER).glob("[!.]*.npz"))

    def figure_path(self, name: str) -> Path:
        """Return the path `figures/NAME.png`, and make its folder."""
        return self._file(FIGURES_FOLDER, name, ".png")

    def _file(self, folder: str, name: str, suffix: str) -> Path:
        good = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
        require(good, "name", expected='letters, digits, ".", "_" and "-"', got=repr(name))
        (self.path / folder).mkdir(exist_ok=True)
        return self.path / folder / (name + suffix)

    def _acquire(self) -> None:
        import fcntl  # here, because reading a run does not need POSIX

        if self._lock is not None:
            return
        lock = FileIO(self.path / ".lock", "a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().decode(errors="replace").strip()
            lock.close()
            raise RuntimeError(
                f"path: expected a run that nothing else writes to, got {self.path}, which process "
                f"{owner} is writing to (if that is this process, close its other Run first)"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        self._lock = lock

    def _open_metrics(self) -> FileIO:
        if self._metrics is None:
            self._acquire()
            self._metrics = open_lines(self.path / METRICS_FILE)
        return self._metrics


def _read_json_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
        require(isinstance(value, dict), "top level", expected="an object", got=value)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a JSON object, got: {error}") from error
    return value


def _check_same_config(saved: Row, given: Row, folder: Path) -> None:
    for name, was, now in differences(saved, given):
        expected = f"that of the existing run {folder}, where {name} is {was!r}"
        require(False, "config", expected=expected, got=repr(now))
