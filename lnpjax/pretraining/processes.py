"""Several processes that train one model together, of which the first writes the run."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lnpjax._base.checks import check_count, require
from lnpjax.runs import Checkpoint, Row, Run
from lnpjax.sharding import place, replicated

T = TypeVar("T")
FAILED = 1
ANSWER_AFTER = 4
"""Steps until a common decision is read; reading it sooner would wait for the devices."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Several processes that share one run, each started with the same options.

    Each sees its own devices, and --mesh spans all of them. Only process 0 writes and prints.

    Args:
        coordinator: HOST:PORT of process 0, where the others find it.
        processes: How many processes there are.
        process: Which of them this is, from 0.
        distributed: Instead of these three, ask the cluster manager: Slurm, Open MPI, Kubernetes or
            a TPU pod.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    distributed: bool = False

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.distributed or self.coordinator is not None

    def check(self) -> None:
        """Refuse values that are invalid, alone or together.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        named = {
            "coordinator": self.coordinator,
            "processes": self.processes,
            "process": self.process,
        }
        given = [name for name, value in named.items() if value is not None]
        if not given:
            return
        require(not self.distributed, "distributed", expected=f"no {given[0]} with it", got="both")
        missing = [name for name in named if name not in given]
        expected = "coordinator, processes and process together"
        require(not missing, given[0], expected=expected, got=f"no {' and no '.join(missing)}")
        assert self.coordinator is not None
        assert self.processes is not None
        assert self.process is not None
        address = re.fullmatch(r".+:\d+", self.coordinator) is not None
        require(address, "coordinator", expected="HOST:PORT", got=repr(self.coordinator))
        check_count("processes", self.processes)
        expected = f"a number from 0 to {self.processes - 1}"
        require(0 <= self.process < self.processes, "process", expected=expected, got=self.process)


class Group:
    """The processes that take part, seen from one of them, made by `joined`.

    Args:
        index: which process this is.
        count: how many there are; a single one agrees with itself at no cost.
    """

    def __init__(self, *, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self.agreed: Exception | None = None  # what every process knows to have failed

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.index == 0

    def together(self, call: Callable[[], T]) -> T:
        """Call a function in every process; if it fails in one, it fails in all.

        Args:
            call: the function; it must not compute anything together with other processes.

        Returns:
            What this process's call returns.

        Raises:
            Exception: what the call raised here.
            RuntimeError: if it raised in another process; the message says in which, and what.

        Example:
            >>> Group(index=0, count=1).together(lambda: "alone")
            'alone'
        """
        if self.count == 1:
            return call()
        try:
            result = call()
        except Exception as error:
            self.agreed = error
            self._gather(str(error) or type(error).__name__)
            raise
        for process, message in enumerate(self._gather("")):
            if message:
                self.agreed = RuntimeError(f"process {process}: {message}")
                raise self.agreed
        return result

    def from_first(self, value: Any) -> Any:
        """Return the value that the first process has, in every process.

        Args:
            value: anything that JSON can hold; only that of the first process is used.

        Example:
            >>> Group(index=0, count=1).from_first({"step": 3})
            {'step': 3}
        """
        if self.count == 1:
            return value
        return json.loads(self._gather(json.dumps(value) if self.is_first else "")[0])

    def _gather(self, text: str) -> list[str]:
        """Return the texts of all processes, in every process."""
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = multihost_utils.process_allgather(np.int32(data.size))
        padded = np.zeros(max(1, *lengths), np.uint8)
        padded[: data.size] = data
        rows = multihost_utils.process_allgather(padded)
        return [bytes(row[:size]).decode() for row, size in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def joined(options: ProcessOptions) -> Iterator[Group]:
    """Connect to the other processes, before anything is computed.

    A process that fails on its own cannot inform the others, which wait for it in a step. It then
    ends without waiting for them, upon which they fail too: within seconds if the connection
    breaks, else once the process has been silent for some 100 seconds.

    Args:
        options: where the others are.

    Yields:
        The processes.

    Raises:
        RuntimeError: if no cluster manager says where the others are.

    Example:
        >>> with joined(ProcessOptions()) as group:
        ...     group.count
        1
    """
    if not options.several:
        yield Group(index=0, count=1)
        return
    try:
        if not jax.distributed.is_initialized():
            jax.distributed.initialize(options.coordinator, options.processes, options.process)
    except ValueError as error:  # no cluster manager answered
        expected = "a cluster that tells its processes apart, or coordinator, processes and process"
        raise RuntimeError(f"distributed: expected {expected}, got: {error}") from error
    group = Group(index=jax.process_index(), count=jax.process_count())
    try:
        yield group
    except BaseException as error:
        if group.count > 1 and error is not group.agreed:
            atexit.register(_leave_at_once)  # before jax's own exit, which waits for the others
        raise


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)


class StopTogether:
    """Agree whether to stop: all processes get the same answer at the same step.

    A wish takes effect `ANSWER_AFTER` questions later.

    Args:
        wanted: whether this process wants to stop.
        mesh: the devices of all processes.

    Example:
        >>> from lnpjax.sharding import make_mesh
        >>> should_stop = StopTogether(lambda: True, make_mesh("data=1", devices=jax.devices()[:1]))
        >>> [should_stop() for step in range(6)]
        [False, False, False, False, True, True]
    """

    def __init__(self, wanted: Callable[[], bool], mesh: Mesh) -> None:
        self._wanted = wanted
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._size = mesh.size
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._answers: deque[jax.Array] = deque()

    def __call__(self) -> bool:
        """Return whether some process wants to stop; all must ask equally often."""
        votes = np.full(self._size, self._wanted())
        self._answers.append(self._any(place(votes, self._sharding)))
        return len(self._answers) > ANSWER_AFTER and bool(self._answers.popleft())


class SharedRun:
    """Share a `Run` among the processes of a group, as far as training needs it.

    Only the first process reads and writes the folder, and sends the others what they need. All
    processes must call `save` and `restore` together.

    Args:
        run: the run, in the first process; None in the others.
        group: the processes.

    Example:
        >>> import tempfile
        >>> run = SharedRun(Run.create(tempfile.mkdtemp(), {}), Group(index=0, count=1))
        >>> run.append({"kind": "train", "step": 0})
        >>> run.rows()
        [{'kind': 'train', 'step': 0}]
        >>> run.close()
    """

    def __init__(self, run: Run | None, group: Group) -> None:
        self._run = run
        self._group = group
        self.path = Path(group.from_first(str(run.path) if run else None))
        self.config: dict[str, Any] = group.from_first(run.config if run else None)

    def close(self) -> None:
        """Close the run in the first process; see `Run.close`."""
        if self._run is not None:
            self._run.close()

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the rows in the first process; the others get an empty list."""
        return [] if self._run is None else self._run.rows(kind)

    def append(self, row: Row) -> None:
        """Append a row in the first process; see `Run.append`."""
        if self._run is not None:
            self._run.append(row)

    def append_session(self, row: Row) -> None:
        """Append a session in the first process; see `Run.append_session`."""
        if self._run is not None:
            self._run.append_session(row)

    def save_spectrum(self, name: str, /, **arrays: Any) -> None:
        """Save arrays in the first process; see `Run.save_spectrum`."""
        if self._run is not None:
            self._run.save_spectrum(name, **arrays)

    def save(self, step: int, state: PyTree, extra: Mapping[str, Any] | None = None) -> None:
        """Save a checkpoint in the first process, which gathers the state; see `Run.save`."""
        whole = jax.tree.map(self._gathered, state)
        self._group.together(
            lambda: None if self._run is None else self._run.save(step, whole, extra)
        )

    def restore(
        self, abstract_state: PyTree, *, check: Callable[[Checkpoint], object] | None = None
    ) -> Checkpoint | None:
        """Restore a checkpoint into the shardings of `abstract_state`; see `Run.restore`."""
        on_host = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), abstract_state
        )
        restored = self._group.together(
            lambda: None if self._run is None else self._run.restore(on_host, check=check)
        )
        head = self._group.from_first(None if restored is None else [restored.step, restored.extra])
        if head is None:
            return None
        step, extra = head
        given = on_host if restored is None else restored.state
        state = jax.tree.map(
            lambda leaf, like: place(self._sent(leaf), like.sharding), given, abstract_state
        )
        return Checkpoint(step, state, extra)

    def _gathered(self, leaf: jax.Array) -> np.ndarray | None:
        whole = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(whole) if self._group.is_first else None

    def _sent(self, array: np.ndarray) -> np.ndarray:
        """Return the first process's array, bit by bit: a sum with zeros would lose -0.0's sign."""
        size = math.prod(array.shape)
        octets = np.ascontiguousarray(array).reshape(size).view(np.uint8)
        sent = np.asarray(multihost_utils.broadcast_one_to_all(octets))
        return sent.view(array.dtype).reshape(array.shape)
