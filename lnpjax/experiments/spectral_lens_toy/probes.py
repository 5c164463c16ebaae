"""What is measured of the toy network of Spectral Lens (F.3) while it trains."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from lnpjax.data.modular import ModularTask, band_sequences, modular_sequences
from lnpjax.experiments.spectral_lens_toy.bands import band_name, task_modes
from lnpjax.experiments.spectral_lens_toy.config import Band
from lnpjax.experiments.spectral_lens_toy.fourier_probes import (
    band_concentration,
    conditional_means,
    first_component_peak_mass,
    fourier_profile,
    gini,
    peak_mass,
)
from lnpjax.experiments.spectral_lens_toy.training import ToyTrainer
from lnpjax.spectra import effective_rank, power_law


def activation_spectrum(hidden: Float[np.ndarray, "n hidden"]) -> Float[np.ndarray, " hidden"]:
    """Eigenvalues of the centred covariance of hidden states, as shares of its trace, descending.

    Args:
        hidden: one vector per sequence.

    Returns:
        Shares, float64; what rounding makes negative is zero.

    Example:
        >>> activation_spectrum(np.array([[1.0, 0.0], [-1.0, 0.0]])).tolist()
        [1.0, 0.0]
    """
    covariance = np.cov(hidden.astype(np.float64), rowvar=False)
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    return eigenvalues / eigenvalues.sum()


def tail_exponent(spectrum: Float[np.ndarray, " k"], window: tuple[int, int]) -> float:
    """The exponent of a spectrum over a window of ranks (`lnpjax.power_law`).

    Example:
        >>> round(tail_exponent(np.arange(1.0, 50.0) ** -1.5, (10, 40)), 3)
        1.5
    """
    return float(power_law(jnp.asarray(spectrum, jnp.float32), window).exponent)


class Probe(NamedTuple):
    """A band with every walk on it."""

    band: Band
    sequences: Int[np.ndarray, "n time"]
    place: Int[np.ndarray, " n"]
    task_modes: Bool[np.ndarray, " modes"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one checkpoint showed.

    Attributes:
        spectrum: eigenvalues of the hidden states' covariance, as shares of its trace.
        half_exponents: tail exponents from either half of the sequences, for the sampling error.
        exponent: tail exponent from all of them.
        rank_me: effective rank.
        profiles: share of each Fourier mode, by band.
        probes: the statistics of each band: H_S, H_peak, gini, pc1_peak_mass.
    """

    spectrum: Float[np.ndarray, " hidden"]
    half_exponents: tuple[float, float]
    exponent: float
    rank_me: float
    profiles: dict[str, Float[np.ndarray, " modes"]]
    probes: dict[str, dict[str, float]]

    def row(self) -> dict[str, Any]:
        """The scalars of the spectrum."""
        return {
            "alpha": self.exponent,
            "alpha_half_a": self.half_exponents[0],
            "alpha_half_b": self.half_exponents[1],
            "rank_me": self.rank_me,
        }


class ToyMeasure:
    """Spectra and Fourier probes at the last token, on sequences that are never trained on.

    Args:
        task: the distribution of the sequences.
        bands: probed cycles, as (cycle, offset).
        window: ranks of the tail exponent.
        num_sequences: that the covariance is taken over.
        seed: of those sequences.
    """

    def __init__(
        self,
        task: ModularTask,
        bands: tuple[Band, ...],
        *,
        window: tuple[int, int],
        num_sequences: int,
        seed: int,
    ) -> None:
        self.window = window
        self._pool = modular_sequences(task, num_sequences, seed=seed).tokens
        self._probes = {band: _probe(task, band) for band in bands}

    def __call__(
        self, trainer: ToyTrainer, params: PyTree, bands: tuple[Band, ...] = ()
    ) -> Measured:
        """Measure a network.

        Args:
            trainer: that knows the network.
            params: its parameters.
            bands: which of the bands to probe.

        Returns:
            What was found.
        """
        probes = [self._probes[band] for band in bands]
        # One pass over everything: forward passes come in batches of one size.
        pools = [self._pool, *(probe.sequences for probe in probes)]
        ends = np.cumsum([len(pool) for pool in pools])
        states = trainer.last_hidden(params, np.concatenate(pools))
        hidden, *by_band = np.split(states, ends[:-1])
        spectrum = activation_spectrum(hidden)
        half_a, half_b = (
            tail_exponent(activation_spectrum(hidden[first::2]), self.window) for first in (0, 1)
        )
        profiles, statistics = {}, {}
        for probe, walks in zip(probes, by_band, strict=True):
            band = probe.band
            means = conditional_means(walks, probe.place, band[0])
            profile = fourier_profile(means)
            profiles[band_name(band)] = profile
            statistics[band_name(band)] = {
                "H_S": band_concentration(profile, probe.task_modes),
                "H_peak": peak_mass(profile),
                "gini": gini(profile),
                "pc1_peak_mass": first_component_peak_mass(means),
            }
        return Measured(
            spectrum=spectrum,
            half_exponents=(half_a, half_b),
            exponent=tail_exponent(spectrum, self.window),
            rank_me=float(effective_rank(jnp.asarray(spectrum, jnp.float32))),
            profiles=profiles,
            probes=statistics,
        )


def _probe(task: ModularTask, band: Band) -> Probe:
    cycle, offset = band
    sequences = band_sequences(task, cycle=cycle, offset=offset).tokens
    place = sequences[:, -2] - offset  # the last token that the network sees
    return Probe(band, sequences, place, task_modes(task, cycle))
