"""The sizes of the random feature experiment (Spectral Reach, 3.2; A.4)."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Float

from lnpjax._base.checks import require

LEAST_DIMENSION = 8


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
        other_dimensions: further d, ascending, at which kernels are diagonalised as well: equation
            47 is asymptotic.
        betas_in_dimension: the exponents of those.
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
    other_dimensions: tuple[int, ...] = ()
    betas_in_dimension: tuple[float, ...] = ()
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
        require(
            set(self.betas_in_dimension) <= set(self.betas),
            "betas_in_dimension",
            expected="some of betas",
            got=self.betas_in_dimension,
        )
        smallest = min((self.dimension, *self.other_dimensions))
        require(
            smallest >= LEAST_DIMENSION and self.dimension not in self.other_dimensions,
            "other_dimensions",
            expected=f"dimensions from {LEAST_DIMENSION} on, other than dimension={self.dimension}",
            got=self.other_dimensions,
        )

    def at_dimension(self, dimension: int) -> RandomFeatureConfig:
        """The same with inputs of another dimension."""
        return dataclasses.replace(
            self,
            dimension=dimension,
            window=relative_window(dimension),
            other_dimensions=(),
            betas_in_dimension=(),
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


def relative_window(dimension: int) -> tuple[int, int]:
    """Ranks that are a fixed share of the dimension, where a law's tail can be followed in d.

    Example:
        >>> relative_window(128)
        (16, 64)
    """
    return dimension // 8, dimension // 2


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
        other_dimensions=(8,),
        betas_in_dimension=(2.0,),
    ),
    "cpu": RandomFeatureConfig(
        num_samples=4000,
        num_features=2000,
        num_spectra=4,
        other_dimensions=(16, 32, 64, 256),
        betas_in_dimension=(1.25, 2.0, 3.0),
    ),
    "paper": RandomFeatureConfig(),
}
