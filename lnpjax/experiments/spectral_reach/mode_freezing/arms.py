"""What is frozen in each training, whether modes are exact or Ritz vectors."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

ARMS = ("free", "own", "common", "top", "random", "tail_only")
"""What is frozen: nothing; modes below the own position; below that of the smallest network; as
many as the latter from the top; as many at random; and all that the third lets free."""
SHARE_OF_FALL = 0.9
"""Of the loss, at which the position of a run is read off."""


def frozen_modes(
    arm: Int[Array, ""],
    p: Float[Array, " mode"],
    positions: tuple[Array, Array],
    order: Int[Array, " mode"],
) -> Bool[Array, " mode"]:
    """Return which modes an arm freezes.

    Args:
        arm: the number of the arm in `ARMS`.
        p: normalised eigenvalues, descending (*Spectral Reach*, eq. 9).
        positions: that this network reached, and the smallest one.
        order: a random order of ranks, the same throughout a training.

    Returns:
        One boolean for each mode.

    Example:
        >>> p, order = jnp.array([0.6, 0.3, 0.1]), jnp.array([1, 0, 2])
        >>> [frozen_modes(jnp.asarray(arm), p, (0.2, 0.4), order).tolist() for arm in (1, 2, 3, 4)]
        [[False, False, True], [False, True, True], [True, True, False], [True, True, False]]
    """
    own, common = positions
    below = p < common
    count = jnp.sum(below)
    nothing = jnp.zeros_like(below)
    ranks = jnp.arange(len(p))
    choices = [nothing, p < own, below, ranks < count, order < count, ~below]
    return jnp.stack(choices)[arm]


def position_reached(
    loss: Float[np.ndarray, " round"], chi_pos: Float[np.ndarray, " round"]
) -> float:
    """Return chi_pos where nine tenths of the fall of the loss are done.

    Not that of the end: a network that cannot go on has a gradient of zero, and the chi_pos of its
    own batch then vanishes, which is not what reaching the tail means.

    Example:
        >>> position_reached(np.array([1.0, 0.5, 0.09, 0.0]), np.array([0.4, 0.3, 0.2, 1e-9]))
        0.2
    """
    enough = loss <= loss[-1] + (1 - SHARE_OF_FALL) * (loss[0] - loss[-1])
    return float(chi_pos[np.argmax(enough)])
