"""What Spectral Reach claims of random features (3.2; A.4; Fig. 3), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, MeanDraws, Uncertain, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.random_features.results import (
    by_beta,
    log_component,
    log_law,
    log_of_spectra,
    proportionality,
    tail_exponents,
)

if TYPE_CHECKING:
    from lnpjax.experiments.random_features.config import RandomFeatureConfig


LEAST_SEEDS = 20
LEAST_BETAS = 5
LEAST_DIMENSIONS = 4
WITHIN_1, WITHIN_2, WITHIN_10 = (Bounds(1 - part, 1 + part) for part in (0.01, 0.02, 0.1))
PROPORTIONAL = Bounds(0.85, 1.15)
SETTLED = 0.03


def judge(config: RandomFeatureConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    seeds = Need.at_least(LEAST_SEEDS, "seeds", config.num_seeds)
    betas = Need(f"{LEAST_BETAS} exponents", len(config.betas) >= LEAST_BETAS)
    needs = [seeds, betas]
    components = {
        name: dict(zip(config.betas, by_beta(config, sweep, "components", name), strict=True))
        for name in ("chi_loss", "chi_net")
    }
    return [
        is_one("chi_loss", "(43)", components["chi_loss"], WITHIN_1, needs),
        is_one("chi_net", "(44)", components["chi_net"], WITHIN_2, needs),
        *position_claims(config, sweep, needs),
        inherits_decay(tail_exponents(config, sweep)),
        *observed(config, sweep),
    ]


def is_one(
    name: str,
    equation: str,
    seeds: dict[float, Float[np.ndarray, " seeds"]],
    region: Bounds,
    needs: list[Need],
) -> Claim:
    """Judge a component that is one at every exponent."""
    return Claim(
        source=f"Fig. 3, {equation}",
        statement=f"{name} = 1 whatever the spectral exponent.",
        quantity="mean over seeds at each exponent",
        findings=[
            Finding(f"b = {beta:g}", mean_of(group), region) for beta, group in seeds.items()
        ],
        needs=needs,
    )


def proportional(
    source: str, statement: str, measured: MeanDraws, predicted: MeanDraws, needs: list[Need]
) -> Claim:
    """Judge a proportionality: the exponent of the one as a power of the other is one."""
    return Claim(
        source=source,
        statement=statement,
        quantity="exponent p of chi_pos ~ prediction^p over the spectral exponents",
        findings=[Finding("", proportionality(measured, predicted), PROPORTIONAL)],
        needs=needs,
    )


def position_claims(config: RandomFeatureConfig, sweep: Sweep, needs: list[Need]) -> list[Claim]:
    """Judge what is said of chi_pos."""
    measured = log_component(config, sweep, "chi_pos", seed=0)
    uncentred = log_component(config, sweep, "chi_pos_uncentred", seed=1)
    printed, centred, expected = (
        log_of_spectra(config, sweep, name, seed=2)
        for name in ("predicted_printed", "predicted_centred", "expected_centred")
    )
    law = log_law(config)
    return [
        proportional(
            "Fig. 3, (11)",
            "chi_pos is proportional to sum k^-2b / (sum k^-b)^2, with d terms in the sums.",
            measured,
            law,
            needs,
        ),
        proportional(
            "Fig. 3, (11)",
            "The same, of the mean over teachers that the kernels' own spectra give: the law "
            "without the scatter between teachers.",
            expected,
            law,
            needs[1:],
        ),
        proportional(
            "(46)",
            "E[chi_pos] is proportional to sum l^2 / (sum l)^2 of the kernel's eigenvalues, as "
            "printed: all of K.",
            measured,
            printed,
            needs,
        ),
        proportional(
            "(46)",
            "The same of targets that are scaled and not centred, which see all of K (ours).",
            uncentred,
            printed,
            needs,
        ),
        proportional(
            "(46)",
            "The same with the kernel that centred targets see, |PKP|^2 / (Tr PKP Tr K) (ours).",
            measured,
            centred,
            needs,
        ),
        Claim(
            source="(42), (45)",
            statement="Targets are y ~ N(0, PKP): chi_pos is, on average, the exact mean of the "
            "ratio (ours, in place of the approximation in (46)).",
            quantity="measured over predicted, geometric mean over the exponents",
            findings=[Finding("", mean_ratio(measured, expected), WITHIN_10)],
            needs=needs,
        ),
    ]


def mean_ratio(measured: MeanDraws, predicted: MeanDraws) -> Uncertain:
    """Return the geometric mean over the exponents of measured over predicted."""
    return measured.estimate(np.exp((measured.rows - predicted.rows).mean(axis=1)))


def inherits_decay(
    tails: dict[float, dict[int, Float[np.ndarray, " seeds"]]],
) -> Claim:
    """Judge whether the kernel's spectrum has the exponent of the data's, by a run in d.

    Args:
        tails: exponents of PKP over the ranks d/8 to d/2, by b and d, one per seed.
    """
    runs = {beta: by_d for beta, by_d in tails.items() if len(by_d) > 1}
    counts = [len(by_d) for by_d in runs.values()]
    findings, drifts = [], []
    for beta, by_d in runs.items():
        before, last = sorted(by_d)[-2:]
        findings.append(Finding(f"b = {beta:g}, d = {last}", mean_of(by_d[last] / beta), WITHIN_10))
        drifts.append(abs(by_d[last].mean() - by_d[before].mean()) / beta)
    return Claim(
        source="(47)",
        statement="The kernel's spectrum inherits the decay of the data's, asymptotically: "
        "l_k ~ k^-b.",
        quantity="exponent of PKP over the ranks d/8 to d/2, over b, at the largest d",
        findings=findings,
        needs=[
            Need(
                f"a run in d, {LEAST_DIMENSIONS} dimensions",
                bool(counts) and min(counts) >= LEAST_DIMENSIONS,
                f"{min(counts, default=1)}",
            ),
            Need(
                f"an exponent that has settled in d, to {SETTLED:.0%} of b over the last doubling",
                bool(drifts) and max(drifts) <= SETTLED,
                f"it moves by {max(drifts):.1%}" if drifts else "one d only",
            ),
        ],
    )


def observed(config: RandomFeatureConfig, sweep: Sweep) -> list[Observation]:
    """Tell how the tail of the spectrum moves with the dimension."""
    moves = [
        f"b = {beta:g}: " + ", ".join(f"{by_d[d].mean():.2f} (d = {d})" for d in sorted(by_d))
        for beta, by_d in tail_exponents(config, sweep).items()
        if len(by_d) > 1
    ]
    return [
        Observation(
            source="(47)",
            statement="Terms of higher order decay faster than the linear one, which dominates.",
            seen=f"exponents over the ranks d/8 to d/2: {'; '.join(moves)}"
            if moves
            else "no run in d",
        )
    ]
