"""Functions of many samples, evaluated a batch at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Shaped


def in_batches(
    function: Callable[..., Array], *samples: Shaped[np.ndarray, "n ..."], size: int
) -> Shaped[np.ndarray, "n ..."]:
    """Evaluate a function of samples in batches of one size, so that it is compiled once.

    Args:
        function: of a batch of each of `samples`, which treats its samples independently.
        samples: arrays whose first axes are of one length.
        size: of a batch, at most; the last one is filled with the first sample, whose results are
            dropped.

    Returns:
        The results of all samples, in their order.

    Example:
        >>> in_batches(lambda x, y: x + y, np.arange(3), np.ones(3), size=2).tolist()
        [1.0, 2.0, 3.0]
    """
    count = len(samples[0])
    size = min(size, count)
    rows = np.append(np.arange(count), np.zeros(-count % size, int)).reshape(-1, size)
    parts = [np.asarray(function(*(array[batch] for array in samples))) for batch in rows]
    return np.concatenate(parts)[:count]
