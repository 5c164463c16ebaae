"""The books of spectral shells over time: what dissipates, and what crosses their edges."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax.experiments.spectral_shells.flows import Moment
from lnpjax.shells._energies import shell_indices


def dissipated_in_intervals(
    moments: Moment, times: Float[np.ndarray, " time"], edges: Array
) -> Float[np.ndarray, "interval bin"]:
    """Integrate the dissipation of every shell over the intervals between measurements.

    ``2 lambda`` times the logarithmic mean of a mode's energies at both ends of an interval, which
    is exact for modes that decay by themselves, where the trapezoidal rule is off by as much as
    little flux moves. A mode that changed its shell counts half in either.

    Args:
        moments: at all times.
        times: of gradient flow.
        edges: of the shells.

    Example:
        >>> zeros, energies = np.zeros((2, 2)), np.array([[1.0], [np.exp(-2.0)]])
        >>> moments = Moment(zeros, zeros, zeros, np.zeros(2), np.ones((2, 1)), energies)
        >>> dissipated_in_intervals(moments, np.array([0.0, 1.0]), jnp.array([0.5, 2.0])).round(6)
        array([[0.      , 0.864665]])
    """
    energies = np.asarray(moments.mode_energies)
    before, after = energies[:-1], energies[1:]
    rates = (moments.eigenvalues[:-1] + moments.eigenvalues[1:]) * np.diff(times)[:, None]
    halves = rates * logarithmic_mean(before, after) / 2
    shells, num_bins = shells_of(moments, edges), moments.energies.shape[1]
    return np.stack(
        [
            np.bincount(first, half, num_bins) + np.bincount(last, half, num_bins)
            for first, last, half in zip(shells[:-1], shells[1:], halves, strict=True)
        ]
    )


def logarithmic_mean(
    a: Float[np.ndarray, "*s"], b: Float[np.ndarray, "*s"]
) -> Float[np.ndarray, "*s"]:
    """Return ``(a - b) / ln(a / b)``, what an exponential is on average; 0 if one is.

    Example:
        >>> logarithmic_mean(np.array([2.0, 1.0, 0.0]), np.array([2.0, np.e, 1.0])).round(3)
        array([2.   , 1.718, 0.   ])
    """
    some = (a > 0) & (b > 0)
    logarithms = np.log(np.where(some, a, 1) / np.where(some, b, 1))
    differ = np.abs(logarithms) > 1e-6
    means = np.where(differ, (a - b) / np.where(differ, logarithms, 1), (a + b) / 2)
    return np.where(some, means, 0)


def shells_of(moments: Moment, edges: Array) -> Int[np.ndarray, "time mode"]:
    """Return the shell of every mode at every time."""
    flat = shell_indices(jnp.asarray(moments.eigenvalues.ravel()), edges)
    return np.asarray(flat).reshape(moments.eigenvalues.shape)


class Crossed(NamedTuple):
    """What modes took along that changed their shell.

    Attributes:
        moved: the sum of their energies.
        num_modes: how many changed.
        gained: net, by shell.
        by_shell: what entered or left a shell, either way.
    """

    moved: float
    num_modes: int
    gained: Float[np.ndarray, " bin"]
    by_shell: Float[np.ndarray, " bin"]


def crossed(moments: Moment, edges: Array) -> Crossed:
    """Find the modes that changed their shell between two times, and their energy.

    Args:
        moments: at all times.
        edges: of the shells.

    Returns:
        What they took along.

    Example:
        A mode of energy 2 falls from the upper shell to the lower one:

        >>> zeros = np.zeros((2, 3))
        >>> modes = np.array([[3.0], [1.5]]), np.array([[2.0], [2.0]])
        >>> moments = Moment(zeros, zeros, zeros, np.zeros(2), *modes)
        >>> crossed(moments, jnp.array([1.0, 2.0, 4.0])).gained.tolist()
        [0.0, 2.0, -2.0]
    """
    shells = shells_of(moments, edges)
    middle = (moments.mode_energies[1:] + moments.mode_energies[:-1]) / 2
    changed = shells[1:] != shells[:-1]
    taken = middle[changed]
    num_bins = moments.energies.shape[1]
    entered = np.bincount(shells[1:][changed], taken, num_bins)
    left = np.bincount(shells[:-1][changed], taken, num_bins)
    return Crossed(float(taken.sum()), int(changed.sum()), entered - left, entered + left)
