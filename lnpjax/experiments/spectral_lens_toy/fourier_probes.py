"""Fourier modes of hidden states on a cycle of tokens: what a toy network has made of its task.

Spectral Lens (F.3) names the statistics and does not define them. Here they are read off the mean
hidden state at each place of a cycle of c tokens, ``H[m] = E[h | last token is offset + m]``, whose
discrete Fourier transform over m has energies at the modes r = 1 ... floor(c / 2); a mode and its
mirror image c - r count as one, and the mean over m (r = 0) is left out. The authors' scripts count
r and c - r apart, so that their peaks are half of these for an odd cycle.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from lnpjax._base.checks import require


def conditional_means(
    hidden: Float[np.ndarray, "n hidden"], place: Int[np.ndarray, " n"], cycle: int
) -> Float[np.ndarray, "cycle hidden"]:
    """The mean hidden state at each place of a cycle.

    Args:
        hidden: hidden states of n sequences.
        place: where on the cycle the last token of each is, from 0 to `cycle` - 1.
        cycle: c, number of places.

    Returns:
        H, float64.

    Raises:
        ValueError: if a place has no sequence.

    Example:
        >>> conditional_means(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1]), 2).tolist()
        [[2.0], [5.0]]
    """
    counts = np.bincount(place, minlength=cycle)
    require(
        len(counts) == cycle and bool(np.all(counts > 0)),
        "place",
        expected=f"places from 0 to {cycle - 1}, each at least once",
        got=f"{np.count_nonzero(counts)} of them, the last {place.max()}",
    )
    sums = np.zeros((cycle, hidden.shape[1]))
    np.add.at(sums, place, hidden.astype(np.float64))
    return sums / counts[:, None]


def fourier_profile(values: Float[np.ndarray, "cycle ..."]) -> Float[np.ndarray, " modes"]:
    """The share of each Fourier mode in the energy of a function on the cycle.

    Args:
        values: the function at each place; vectors for a vector-valued one.

    Returns:
        Shares of the modes 1 ... floor(c / 2), of sum one; NaN for a constant function.

    Example:
        >>> fourier_profile(np.cos(2 * np.pi * 3 * np.arange(10) / 10)).round(6).tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0]
    """
    cycle = len(values)
    transform = np.fft.fft(values.reshape(cycle, -1), axis=0)[1:]
    energy = np.sum(np.abs(transform) ** 2, axis=1)
    folded = energy[: cycle // 2].copy()
    mirrored = energy[: cycle // 2 - 1 : -1]  # c - 1, c - 2, ...; the middle of an even c has none
    folded[: len(mirrored)] += mirrored
    total = folded.sum()
    return folded / total if total > 0 else np.full(len(folded), np.nan)


def task_band(power: Float[np.ndarray, " modes"], share: float = 0.9) -> Bool[np.ndarray, " modes"]:
    """S: the fewest modes that together have that share of a teacher's power.

    The paper speaks of the "teacher-supported" band and does not say which modes it took. A band
    that follows from the task alone keeps `band_concentration` from being true by construction.

    Args:
        power: of the modes, as `lnpjax.data.modular.teacher_power` gives it.
        share: in (0, 1].

    Returns:
        Which modes belong to S.

    Example:
        >>> task_band(np.array([6.0, 0.5, 3.5])).tolist()
        [True, False, True]
    """
    require(0 < share <= 1, "share", expected="a number in (0, 1]", got=share)
    order = np.argsort(power)[::-1]
    cumulative = np.cumsum(power[order])
    count = 1 + np.searchsorted(cumulative, share * cumulative[-1] * (1 - 1e-12))
    band = np.zeros(len(power), bool)
    band[order[:count]] = True
    return band


def band_concentration(
    profile: Float[np.ndarray, " modes"], band: Bool[np.ndarray, " modes"]
) -> float:
    """H_S: the share of the energy that lies in a band (Spectral Lens, equation 9).

    Args:
        profile: shares by mode.
        band: which modes belong to S.

    Returns:
        A number from 0 to 1.

    Example:
        >>> band_concentration(np.array([0.5, 0.25, 0.25]), np.array([True, False, True]))
        0.75
    """
    return float(profile[band].sum())


def peak_mass(profile: Float[np.ndarray, " modes"]) -> float:
    """H_peak: the share of the strongest mode.

    Example:
        >>> peak_mass(np.array([0.2, 0.5, 0.3]))
        0.5
    """
    return float(profile.max())


def gini(profile: Float[np.ndarray, " modes"]) -> float:
    """Gini coefficient of the shares: 0 where all are equal, 1 - 1/n where one has all.

    Example:
        >>> gini(np.array([0.0, 0.0, 0.0, 1.0]))
        0.75
    """
    ascending = np.sort(profile)
    n = len(ascending)
    ranks = np.arange(1, n + 1)
    return float(2 * (ranks @ ascending) / (n * ascending.sum()) - (n + 1) / n)


def first_component_peak_mass(means: Float[np.ndarray, "cycle hidden"]) -> float:
    """PC1 peak mass: the share of the strongest mode in the first principal component over m.

    Args:
        means: H, as `conditional_means` gives it.

    Returns:
        A number from 0 to 1: 1 where the direction of largest variance is a single wave.

    Example:
        >>> wave = np.cos(2 * np.pi * np.arange(8) / 8)
        >>> round(first_component_peak_mass(np.outer(wave, [2.0, 1.0])), 6)
        1.0
    """
    left, _, _ = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    return peak_mass(fourier_profile(left[:, 0]))
