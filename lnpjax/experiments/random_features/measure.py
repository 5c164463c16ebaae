"""The random feature experiment of Spectral Reach (section 3.2; A.4; B.2.5; Fig. 3).

Gaussian inputs with the covariance ``mu_k ~ k^-beta``, frozen ReLU features ``phi(x)``, a trained
read-out that starts at zero, and a teacher with random read-out weights on the same features. The
components are measured at the start, with `lnpjax.lnp` and no approximation, on the full batch, for
``L = |y - Phi c|^2 / 2n``: with the normalisation by samples that makes ``chi_loss = |y|^2 / n``,
``chi_net = Tr K / n`` and ``chi_pos = y^T K y / (|y|^2 Tr K)``, the factors of equation 42.

Targets are standardised AND centred, and the second matters. All features of a ReLU are positive,
so the kernel has a constant mode that holds about a third of its trace. It stays in the kernel and
in its trace, but centred targets have no part of it. So equation 46 as printed, with all
eigenvalues of K, does not describe this experiment: the targets have the covariance ``P K P``
(P takes the mean off), and

    ``E[chi_pos] ~ |P K P|_F^2 / (Tr(P K P) Tr(K))``.

Both readings are evaluated here with the kernels that were measured, as is the mean over teachers
without the approximation (`lnpjax.theory.random_features`), and targets that are scaled but not
centred are measured as a control.

What the paper leaves open, and what is done here: which exponents (nine, evenly from 1 to 3), and
whether they share their random numbers (they do not: errors at different exponents are independent,
so that deviations can be counted in standard errors).

The members of a unit are one compiled program that takes one after the other, with the features of
one alive at a time. The product that makes them fills all cores: vectorised over members the
program needs as much time at small sizes, and three times as much at the paper's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax.decomposition import Exact, lnp
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.random_features.config import RandomFeatureConfig, relative_window
from lnpjax.spectra import inverse_participation_ratio, power_law, spectral_resolution
from lnpjax.theory.random_features import expected_position, power_law_variances


class Member(NamedTuple):
    """One draw of network, teacher and samples.

    Attributes:
        features: Phi, over ``sqrt(m)`` (equation 53).
        labels: of the teacher, before they are standardised (equation 54).
        inputs: x.
    """

    features: Float[Array, "n m"]
    labels: Float[Array, " n"]
    inputs: Float[Array, "n d"]


def make_member(
    config: RandomFeatureConfig, normals: Float[Array, " number"], variances: Float[Array, " d"]
) -> Member:
    """The member that is made of these random numbers (B.2.5). Pure.

    Args:
        config: the sizes.
        normals: as `RandomFeatureConfig.normals` draws them.
        variances: of the inputs, by coordinate.

    Returns:
        The member.

    Example:
        >>> from lnpjax.experiments.random_features.config import PRESETS
        >>> config = PRESETS["smoke"]
        >>> member = make_member(config, config.normals(2.0, 0), jnp.ones(config.dimension))
        >>> member.features.shape
        (96, 48)
    """
    n, d, m = config.num_samples, config.dimension, config.num_features
    inputs, weights, teacher = jnp.split(normals, [n * d, (n + m) * d])
    inputs = inputs.reshape(n, d) * jnp.sqrt(variances)
    projections = inputs @ weights.reshape(d, m) / jnp.sqrt(d)
    features = jnp.sqrt(2.0) * jax.nn.relu(projections) / jnp.sqrt(m)
    return Member(features, features @ teacher, inputs)


def standardised(labels: Float[Array, " n"], *, centred: bool) -> Float[Array, " n"]:
    """Labels with a mean square of one; centred, so that it is their variance, or not.

    Example:
        >>> standardised(jnp.array([2.0, 6.0]), centred=True)
        Array([-1.,  1.], dtype=float32)
    """
    values = labels - jnp.mean(labels) if centred else labels
    return values / jnp.sqrt(jnp.mean(values**2))


def read_out(coefficients: Float[Array, " m"], features: Float[Array, "n m"]) -> Float[Array, " n"]:
    """The student: linear in what is trained."""
    return features @ coefficients


def half_mean_square(outputs: Float[Array, " n"], targets: Float[Array, " n"]) -> Float[Array, ""]:
    """The loss of equation 39; with its half, ``chi_loss`` at zero is the mean square of y."""
    return jnp.mean((outputs - targets) ** 2) / 2


_components = lnp(read_out, half_mean_square, estimator=Exact())
_fit_power_law = jax.jit(power_law, static_argnames=("ranks", "resolution"))


@partial(jax.jit, static_argnums=0)
def measured_members(
    config: RandomFeatureConfig,
    normals: Float[Array, "seed number"],
    variances: Float[Array, " d"],
) -> dict[str, Float[Array, " seed"]]:
    """The components of several members, one after the other, in one program.

    Args:
        config: the sizes.
        normals: what each is made of.
        variances: of the inputs.

    Returns:
        ``chi_loss``, ``chi_net`` and ``chi_pos``; and ``chi_pos_uncentred``, of targets that are
        scaled to a mean square of one and not centred.
    """

    def one_member(normals: Float[Array, " number"]) -> dict[str, Float[Array, ""]]:
        member = make_member(config, normals, variances)
        targets = jnp.stack([standardised(member.labels, centred=on) for on in (True, False)])
        start = jnp.zeros(config.num_features)
        out = jax.vmap(lambda target: _components(start, (member.features, target)))(targets)
        return {
            "chi_loss": out.chi_loss[0],
            "chi_net": out.chi_net[0],
            "chi_pos": out.chi_pos[0],
            "chi_pos_uncentred": out.chi_pos[1],
        }

    return jax.lax.map(one_member, normals)


@partial(jax.jit, static_argnums=0)
def feature_moments(
    config: RandomFeatureConfig, normals: Float[Array, " number"], variances: Float[Array, " d"]
) -> tuple[Float[Array, "m m"], Float[Array, "m m"]]:
    """``Phi^T Phi / n`` of a member, and the same of centred features.

    Their eigenvalues, times n, are those of K and of ``P K P`` that are not zero.

    Args:
        config: the sizes.
        normals: what the member is made of.
        variances: of the inputs.

    Returns:
        Second moments about zero, and about the mean.
    """
    features = make_member(config, normals, variances).features
    mean = jnp.mean(features, axis=0)
    deviations = features - mean
    about_mean = jnp.matmul(deviations.T, deviations, precision="highest") / len(features)
    return about_mean + jnp.outer(mean, mean), about_mean


def measure(config: RandomFeatureConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: inputs are drawn.
    """
    for beta in config.betas:
        for seeds in config.blocks:
            name = f"components-beta{beta:g}-seeds{seeds[0]}-{seeds[-1]}"
            sweep.unit(name, partial(_components_unit, config, beta, seeds))
        unit = partial(_spectra_unit, config, beta, config.num_features)
        sweep.unit(f"spectra-beta{beta:g}", unit)
    for beta in config.betas_in_dimension:
        for dimension in config.other_dimensions:
            unit = partial(_spectra_unit, config.at_dimension(dimension), beta, dimension)
            sweep.unit(f"spectra-beta{beta:g}-d{dimension}", unit)


def num_units(config: RandomFeatureConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.random_features.config import PRESETS
        >>> num_units(PRESETS["paper"])
        54
    """
    in_dimension = len(config.betas_in_dimension) * len(config.other_dimensions)
    return len(config.betas) * (len(config.blocks) + 1) + in_dimension


def _components_unit(
    config: RandomFeatureConfig, beta: float, seeds: tuple[int, ...]
) -> UnitResult:
    variances = power_law_variances(config.dimension, beta)
    normals = jnp.stack([config.normals(beta, seed) for seed in seeds])
    found = measured_members(config, normals, variances)
    columns = {name: np.asarray(values) for name, values in found.items()}
    return UnitResult(
        [
            {"kind": "components", "beta": beta, "seed": seed}
            | {name: values[index] for name, values in columns.items()}
            for index, seed in enumerate(seeds)
        ]
    )


def _spectra_unit(config: RandomFeatureConfig, beta: float, num_kept: int) -> UnitResult:
    """The leading eigenvalues of a few kernels, and what follows from all of them."""
    variances = power_law_variances(config.dimension, beta)
    rows, spectra = [], []
    for seed in range(config.num_spectra):
        about_zero, about_mean = (
            np.asarray(moments)
            for moments in feature_moments(config, config.normals(beta, seed), variances)
        )
        # NumPy's solver does without eigenvectors, where JAX's computes and drops them.
        eigenvalues = np.linalg.eigvalsh(about_mean)[::-1]
        columns = {"kind": "spectrum", "dimension": config.dimension, "beta": beta, "seed": seed}
        row = spectrum_row(about_zero, eigenvalues, config.window)
        tail = _fit_exponent(eigenvalues, relative_window(config.dimension))
        rows.append(columns | row | {"tail_exponent": tail.value, "num_tail": tail.num_ranks})
        spectra.append(eigenvalues[:num_kept])
    return UnitResult(rows, {"eigenvalues": np.stack(spectra)})


class _Exponent(NamedTuple):
    value: float
    num_ranks: int


def _fit_exponent(eigenvalues: Float[np.ndarray, " m"], window: tuple[int, int]) -> _Exponent:
    resolution = spectral_resolution(len(eigenvalues), eigenvalues.dtype)
    fit = _fit_power_law(jnp.asarray(eigenvalues), ranks=window, resolution=resolution)
    return _Exponent(float(fit.exponent), int(fit.num_points))


def spectrum_row(
    about_zero: Float[np.ndarray, "m m"],
    eigenvalues: Float[np.ndarray, " m"],
    window: tuple[int, int],
) -> dict[str, float]:
    """What K and the spectrum of ``P K P`` predict of chi_pos, and how the latter decays.

    Args:
        about_zero: second moments of the features, which have the eigenvalues of K. Their sum and
            their sum of squares, which is all that is needed, do not take a decomposition.
        eigenvalues: of ``P K P``, descending, in the same unit.
        window: ranks over which the exponent is fitted.

    Returns:
        `centred_share`, ``Tr(P K P) / Tr(K)``; `predicted_printed`, equation 46 with all
        eigenvalues of K; `predicted_centred`, with those of ``P K P`` as the targets have them;
        `expected_centred`, the mean over teachers; and the `exponent` of ``P K P``, with
        `num_ranks`, how many ranks it rests on.

    Example:
        >>> spectrum = np.array([2.0, 1.0, 0.5, 0.25])
        >>> row = spectrum_row(np.diag(spectrum), spectrum, (1, 4))
        >>> print(f"{row['predicted_printed']:.4f} {row['expected_centred']:.4f}")
        0.3778 0.3364
    """
    trace = np.trace(about_zero)
    values = jnp.asarray(eigenvalues)
    exponent = _fit_exponent(eigenvalues, window)
    share = float(np.sum(eigenvalues) / trace)
    return {
        "centred_share": share,
        "predicted_printed": float(np.linalg.norm(about_zero) ** 2 / trace**2),
        "predicted_centred": share * float(inverse_participation_ratio(values)),
        "expected_centred": share * expected_position(values),
        "exponent": exponent.value,
        "num_ranks": exponent.num_ranks,
    }
