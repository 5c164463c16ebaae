"""Seeds of runs that are to be independent of one another."""

from __future__ import annotations

import numpy as np


def run_seed(seed: int, batch_size: int) -> int:
    """Return the seed of a network and its batches, another one for each batch size.

    The scatter of runs that share a seed is less than that of independent ones, or shows at all
    batch sizes alike.

    Args:
        seed: of the experiment.
        batch_size: of the run.

    Example:
        >>> run_seed(0, 1) != run_seed(0, 2)
        True
    """
    return int(np.random.SeedSequence((seed, batch_size)).generate_state(1)[0] >> 1)
