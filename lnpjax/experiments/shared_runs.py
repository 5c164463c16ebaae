"""A run that several processes take part in, and only the first of them writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from lnpjax.experiments.processes import Group
from lnpjax.rows import Row
from lnpjax.runs import Checkpoint, Run
from lnpjax.sharding import place


class SharedRun:
    """What training needs of a `Run`, for every process of a group.

    The folder need only exist where the first process is: what it reads there it sends to the
    others. All processes must call `save` and `restore`, at the same time.

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
        """As `Run.close`, in the first process."""
        if self._run is not None:
            self._run.close()

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows, in the first process; none in the others."""
        return [] if self._run is None else self._run.rows(kind)

    def append(self, row: Row) -> None:
        """As `Run.append`, in the first process."""
        if self._run is not None:
            self._run.append(row)

    def append_session(self, row: Row) -> None:
        """As `Run.append_session`, in the first process."""
        if self._run is not None:
            self._run.append_session(row)

    def save_spectrum(self, name: str, /, **arrays: Any) -> None:
        """As `Run.save_spectrum`, in the first process."""
        if self._run is not None:
            self._run.save_spectrum(name, **arrays)

    def save(self, step: int, state: PyTree, extra: Mapping[str, Any] | None = None) -> None:
        """As `Run.save`; the first process gathers the state, leaf by leaf, in its own memory."""
        whole = jax.tree.map(self._gathered, state)
        self._group.together(
            lambda: None if self._run is None else self._run.save(step, whole, extra)
        )

    def restore(self, abstract_state: PyTree) -> Checkpoint | None:
        """As `Run.restore`, into the shardings of `abstract_state`."""
        on_host = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), abstract_state
        )
        found = self._group.together(
            lambda: None if self._run is None else self._run.restore(on_host)
        )
        head = self._group.from_first(None if found is None else [found.step, found.extra])
        if head is None:
            return None
        step, extra = head
        given = on_host if found is None else found.state
        state = jax.tree.map(
            lambda leaf, like: place(self._sent(leaf), like.sharding), given, abstract_state
        )
        return Checkpoint(step, state, extra)

    def _gathered(self, leaf: jax.Array) -> np.ndarray | None:
        whole = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(whole) if self._group.is_first else None

    def _sent(self, array: np.ndarray) -> np.ndarray:
        """The first process's array, bit by bit: a sum with zeros would lose the sign of -0.0."""
        size = math.prod(array.shape)
        octets = np.ascontiguousarray(array).reshape(size).view(np.uint8)
        sent = np.asarray(multihost_utils.broadcast_one_to_all(octets))
        return sent.view(array.dtype).reshape(array.shape)
