"""The sizes of the random feature experiment (Spectral Reach, 3.2; A.4)."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Float

from lnpjax._base.checks import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFeatureConfig:
    """One size of the experiment.

    Attributes:
        num_samples: n, the full batch.
        dimension: d, of an input.
        num_features: m, the width.
        betas: exponents of the covariance of the inputs, ascending.
        num_seeds: networks, teachers and samples per exponent.
        seeds_per_unit: how many of them make a unit of the sweep, and one compiled program.
        num_spectra: seeds per exponent, from the first on, whose kernels are diagonalised.
        window: ranks over which the exponent of a kernel's spectrum is fitted.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    num_samples: int = 10_000
    dimension: int = 128
    num_features: int = 5000
    betas: tuple[float, ...] = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
    num_seeds: int = 100
    seeds_per_unit: int = 20
    num_spectra: int = 3
    window: tuple[int, int] = (5, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            len(self.betas) >= 2 and list(self.betas) == sorted(set(self.betas)),
            "betas",
            expected="at least two exponents, ascending",
            got=self.betas,
        )
        require(
            self.num_seeds >= 2 and self.num_seeds % self.seeds_per_unit == 0,
            "num_seeds",
            expected=f"at least two, and a multiple of seeds_per_unit={self.seeds_per_unit}",
            got=self.num_seeds,
        )
        require(
            2 <= self.num_spectra <= self.num_seeds,
            "num_spectra",
            expected=f"at least two, for an error, and at most num_seeds={self.num_seeds}",
            got=self.num_spectra,
        )
        first, last = self.window
        require(
            1 <= first < last - 1 and last <= min(self.dimension, self.num_features),
            "window",
            expected="three or more ranks that inputs and features have",
            got=self.window,
        )

    @property
    def blocks(self) -> list[tuple[int, ...]]:
        """The seeds of every unit."""
        seeds = range(self.num_seeds)
        size = self.seeds_per_unit
        return [tuple(seeds[start : start + size]) for start in seeds[::size]]

    def normals(self, beta: float, seed: int) -> Float[Array, " number"]:
        """All that a member is made of: independent standard normal numbers."""
        key = jax.random.fold_in(jax.random.key(self.seed), self.betas.index(beta))
        number = (self.num_samples + self.num_features) * self.dimension + self.num_features
        return jax.random.normal(jax.random.fold_in(key, seed), (number,))


PRESETS = {
    "smoke": RandomFeatureConfig(
        num_samples=96,
        dimension=12,
        num_features=48,
        betas=(1.0, 2.0, 3.0),
        num_seeds=4,
        seeds_per_unit=2,
        num_spectra=2,
        window=(2, 8),
    ),
    "cpu": RandomFeatureConfig(num_samples=4000, num_features=2000, num_spectra=4),
    "paper": RandomFeatureConfig(),
}
