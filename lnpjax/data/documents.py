"""Sequences that each hold one document, cut or padded: how *Spectral Reach* feeds its stories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import check_count, require
from lnpjax.data.datasets import HASHED_ELEMENTS, fingerprint
from lnpjax.data.token_files import TokenFiles

PADDING = int(np.iinfo(np.int32).min)
"""The target of a position that only pads a sequence, and counts for nothing.

Neither -1 nor -100, with which others mark such positions: where a loss does not expect them, JAX
takes both for tokens, and they are refused.
"""


@dataclass(frozen=True, eq=False)
class DocumentSequences:
    """One sequence for each document of a stream: a source for `SourceDataset`.

    A document is what lies between two marks of an end; it is predicted up to its own mark. What is
    longer than a sequence is cut. What is shorter is padded: the inputs with marks, the targets
    with `PADDING`. Documents of fewer than two ids, their mark included, are left out.

    Args:
        ids: the stream, `(tokens,)`.
        end_of_text: the id of the mark.
        context_length: positions of a sequence.

    Raises:
        ValueError: if the length is below 1, or there is no document.

    Example:
        >>> documents = DocumentSequences(np.array([5, 6, 0, 7, 8, 9, 9, 0]), 0, context_length=3)
        >>> inputs, targets = documents[0]
        >>> inputs, targets == PADDING, targets[:2]
        (array([5, 6, 0], dtype=int32), array([False, False,  True]), array([6, 0], dtype=int32))
        >>> documents[1]
        (array([7, 8, 9], dtype=int32), array([8, 9, 9], dtype=int32))
    """

    ids: Int[np.ndarray, " tokens"] | TokenFiles
    end_of_text: int
    context_length: int

    def __post_init__(self) -> None:
        check_count("context_length", self.context_length)
        expected = f"documents that end in the token {self.end_of_text}"
        require(len(self) > 0, "data", expected=expected, got=f"none in {len(self.ids)} tokens")

    def __len__(self) -> int:
        return len(self._bounds[0])

    def __getitem__(
        self, index: int
    ) -> tuple[Int[np.ndarray, " context_length"], Int[np.ndarray, " context_length"]]:
        start, stop = (int(bound[index]) for bound in self._bounds)
        ids = self.ids[start : min(stop, start + self.context_length + 1)]
        inputs = np.full(self.context_length, self.end_of_text, np.int32)
        targets = np.full(self.context_length, PADDING, np.int32)
        inputs[: len(ids) - 1], targets[: len(ids) - 1] = ids[:-1], ids[1:]
        return inputs, targets

    @cached_property
    def fingerprint(self) -> str:
        """Identifies every id, and how they are cut."""
        return fingerprint(self.ids, end=self.end_of_text, context_length=self.context_length)

    @cached_property
    def _bounds(self) -> tuple[Int[np.ndarray, " documents"], Int[np.ndarray, " documents"]]:
        """The first id of each document, and the one after its mark."""
        total = len(self.ids)
        marks = [
            start + np.flatnonzero(self.ids[start : start + HASHED_ELEMENTS] == self.end_of_text)
            for start in range(0, total, HASHED_ELEMENTS)
        ]
        after = np.concatenate([[0], *marks, [total - 1]]).astype(np.int64)
        after[1:] += 1
        starts, stops = after[:-1], after[1:]
        long_enough = stops - starts >= 2
        return starts[long_enough], stops[long_enough]
