"""What Spectral Reach claims of random features (3.2; A.4; Fig. 3), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, decide
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.random_features.results import (
    Averages,
    component,
    of_spectra,
    population_law,
    proportionality,
)

if TYPE_CHECKING:
    from lnpjax.experiments.random_features.config import RandomFeatureConfig


LEAST_SEEDS = 20  # fewer have no standard error to speak of
LEAST_BETAS = 5
STANDARD_ERRORS = 3
FLAT = 0.01
CLOSE = 0.05
PROPORTIONAL = 0.10
CORRELATED = 0.99


def judge(config: RandomFeatureConfig, sweep: Sweep) -> list[Claim]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    return [
        _flat(config, sweep, "chi_loss", "(43)"),
        _flat(config, sweep, "chi_net", "(44)"),
        *_proportional(config, sweep),
        *_finite_kernel(config, sweep),
        _linear_dominance(config, sweep),
    ]


def _flat(config: RandomFeatureConfig, sweep: Sweep, name: str, equation: str) -> Claim:
    measured = component(config, sweep, name)
    return Claim(
        source=f"Fig. 3, {equation}",
        statement=f"{name} = 1 whatever the spectral exponent.",
        measured=f"{_range(measured.mean)}; {_misses(measured)}",
        verdict=decide(_agrees(measured, FLAT), known=_enough(config)),
        rule=_agreement_rule("1", FLAT),
    )


def _proportional(config: RandomFeatureConfig, sweep: Sweep) -> list[Claim]:
    law = population_law(config)
    measured = component(config, sweep, "chi_pos")
    fit = proportionality(measured.mean, law)
    ratios = Averages(fit.ratios, fit.ratios * measured.sem / measured.mean)
    control = proportionality(component(config, sweep, "chi_pos_uncentred").mean, law)
    expected = proportionality(of_spectra(config, sweep, "expected_centred").mean, law)
    enough = _enough(config) and len(config.betas) >= LEAST_BETAS
    return [
        Claim(
            source="Fig. 3, (11)",
            statement="chi_pos is proportional to sum k^-2b / (sum k^-b)^2.",
            measured=f"constant {fit.constant:.3f}, log-log correlation {fit.correlation:.4f} and "
            f"slope {fit.slope:.3f}; {_misses(ratios)}; without centring the targets: slope "
            f"{control.slope:.2f}, misses up to {_largest(control.ratios)}",
            verdict=decide(
                fit.correlation >= CORRELATED and _agrees(ratios, PROPORTIONAL), known=enough
            ),
            rule=f"one constant for all exponents, d terms in the sums; holds if the correlation "
            f"of the logarithms is at least {CORRELATED} and, "
            + _agreement_rule("the law", PROPORTIONAL),
        ),
        Claim(
            source="Fig. 3, (11)",
            statement="The same, of the mean over teachers that the kernels' own spectra give: "
            "the law without the scatter between teachers.",
            measured=f"constant {expected.constant:.3f}, correlation {expected.correlation:.4f}, "
            f"slope {expected.slope:.3f}; misses up to {_largest(expected.ratios)}",
            verdict=decide(
                expected.correlation >= CORRELATED and _agree(expected.ratios, PROPORTIONAL),
                known=len(config.betas) >= LEAST_BETAS,
            ),
            rule=f"as above, with {PROPORTIONAL:.0%} and no allowance for errors; cannot tell with "
            f"fewer than {LEAST_BETAS} exponents",
        ),
    ]


def _finite_kernel(config: RandomFeatureConfig, sweep: Sweep) -> list[Claim]:
    measured = component(config, sweep, "chi_pos")
    control = component(config, sweep, "chi_pos_uncentred")
    share = of_spectra(config, sweep, "centred_share").mean
    printed, centred, expected = (
        of_spectra(config, sweep, name)
        for name in ("predicted_printed", "predicted_centred", "expected_centred")
    )
    rule = _agreement_rule("the prediction", CLOSE)
    return [
        Claim(
            source="(46)",
            statement="E[chi_pos] is sum l^2 / (sum l)^2 of the kernel's eigenvalues, as printed: "
            "all of K.",
            measured=f"measured over predicted {_range(measured.over(printed).mean)}: centred "
            f"targets miss the constant mode, {_range(1 - share)} of the trace; without centring "
            f"{_range(control.over(printed).mean)}",
            verdict=decide(_agrees(measured.over(printed), CLOSE), known=_enough(config)),
            rule=rule,
        ),
        Claim(
            source="(46)",
            statement="The same with the kernel that centred targets see, |PKP|^2 / (Tr PKP Tr K).",
            measured=f"measured over predicted {_range(measured.over(centred).mean)}; "
            f"{_misses(measured.over(centred))}; the mean of the ratio over teachers is "
            f"{_range(expected.mean / centred.mean)} of the ratio of means",
            verdict=decide(_agrees(measured.over(centred), CLOSE), known=_enough(config)),
            rule=rule,
        ),
        Claim(
            source="(42), (45)",
            statement="Targets are y ~ N(0, PKP): chi_pos is, on average, the exact mean of the "
            "ratio (ours, in place of the approximation in (46)).",
            measured=f"measured over predicted {_range(measured.over(expected).mean)}; "
            f"{_misses(measured.over(expected))}",
            verdict=decide(_agrees(measured.over(expected), CLOSE), known=_enough(config)),
            rule=rule,
        ),
    ]


def _linear_dominance(config: RandomFeatureConfig, sweep: Sweep) -> Claim:
    exponents = of_spectra(config, sweep, "exponent")
    ranks = of_spectra(config, sweep, "num_ranks").mean
    betas = np.array(config.betas)
    first, last = config.window
    shown = ", ".join(
        f"{beta:g}: {exponent:.2f}" for beta, exponent in zip(betas, exponents.mean, strict=True)
    )
    return Claim(
        source="(47)",
        statement="The kernel's spectrum inherits the decay of the data's: l_k ~ k^-b.",
        measured=f"exponents of PKP by b: {shown} (over {ranks.min():.0f} to {ranks.max():.0f} "
        "ranks above rounding)",
        verdict=decide(_agree(exponents.mean / betas, PROPORTIONAL), known=bool(ranks.min() >= 10)),
        rule=f"holds if the exponent over ranks {first} to {last} is within {PROPORTIONAL:.0%} of "
        "b at every b; cannot tell with fewer than 10 ranks above rounding",
    )


def _enough(config: RandomFeatureConfig) -> bool:
    return config.num_seeds >= LEAST_SEEDS


def _agrees(ratios: Averages, tolerance: float) -> bool:
    allowed = np.maximum(tolerance, STANDARD_ERRORS * ratios.sem)
    return bool(np.all(np.abs(ratios.mean - 1) <= allowed))


def _agree(ratios: np.ndarray, tolerance: float) -> bool:
    return _agrees(Averages(ratios, np.zeros_like(ratios)), tolerance)


def _agreement_rule(target: str, tolerance: float) -> str:
    return (
        f"at every exponent, the mean over seeds within {tolerance:.0%} or {STANDARD_ERRORS} "
        f"standard errors of {target}; cannot tell with fewer than {LEAST_SEEDS} seeds"
    )


def _misses(ratios: Averages) -> str:
    misses = np.abs(ratios.mean - 1)
    errors = misses / np.maximum(ratios.sem, np.finfo(np.float32).eps)
    return (
        f"misses up to {_largest(ratios.mean)} or {errors.max():.1f} standard errors "
        f"(of {ratios.sem.max():.2g} at most)"
    )


def _largest(ratios: np.ndarray) -> str:
    return f"{np.abs(ratios - 1).max():.2%}"


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3f} to {values.max():.3f}"
