"""What Spectral Reach says of explicit spectra (D.5, Fig. 12), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.explicit_spectrum.measure import STATES
from lnpjax.experiments.spectral_reach.explicit_spectrum.results import (
    Spectra,
    by_model,
    spectra,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.explicit_spectrum.config import ExplicitConfig

FALLS = Bounds(high=0.0)
GROWS = Bounds(0.0)
MODERATE = Bounds(-1.0, 0.0)
MOST = Bounds(0.5)
LEAST_MODELS = 3
LEAST_STEPS = 1000


def judge(config: ExplicitConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    found = spectra(config, sweep)
    start, end = found["start"], found["end"]
    enough = needs(config)
    return [
        reweighted(start, end, enough),
        position_falls(start, end, enough),
        moderate(start, end, enough),
        pairs_are_positive(
            {state: by_model(config, sweep, state, "positive_pairs") for state in STATES},
            [*enough, Need("pairs of sequences", config.pairs)],
        ),
        observed(start, end),
        observed_pairs(config, sweep),
    ]


def needs(config: ExplicitConfig) -> list[Need]:
    """What every claim needs: models, since sequences of one model are not independent."""
    models, steps = config.num_models, config.train_steps
    return [
        Need.at_least(LEAST_MODELS, "models", models),
        Need.at_least(LEAST_STEPS, "steps of training", steps),
    ]


def reweighted(start: Spectra, end: Spectra, enough: list[Need]) -> Claim:
    """Judge whether the loss gradient moves to smaller eigenvalues."""
    change = _by_model(end.share_in_tail - start.share_in_tail)
    return Claim(
        source="D.5, Fig. 12b",
        statement="After training, gamma_k^2 is reweighted toward smaller eigenvalues.",
        quantity="change of the share of the loss gradient beyond the modes that hold the first "
        "half of the trace, mean over models",
        findings=[Finding("", mean_of(change), GROWS)],
        needs=enough,
    )


def position_falls(start: Spectra, end: Spectra, enough: list[Need]) -> Claim:
    """Judge whether chi_pos falls, as it does in training."""
    return Claim(
        source="D.5, Fig. 12c",
        statement="So chi_pos, their sum with p_k, falls.",
        quantity="change of its decimal logarithm, mean over models",
        findings=[Finding("", mean_of(_change_of_position(start, end)), FALLS)],
        needs=enough,
    )


def moderate(start: Spectra, end: Spectra, enough: list[Need]) -> Claim:
    """Judge whether the fall is less than the orders of magnitude of training."""
    return Claim(
        source="D.5",
        statement="The effect is moderate, of so few tokens: less than a decade.",
        quantity="change of the decimal logarithm of chi_pos, mean over models",
        findings=[Finding("", mean_of(_change_of_position(start, end)), MODERATE)],
        needs=enough,
    )


def pairs_are_positive(shares: dict[str, Float[np.ndarray, " model"]], enough: list[Need]) -> Claim:
    """Judge whether a step on one sequence helps most modes of another."""
    return Claim(
        source="A.1, (25)",
        statement="Most pairs of modes of two batches add to chi_pos.",
        quantity="share of pairs that are positive, mean over models",
        findings=[
            Finding(f"at the {state}", mean_of(share), MOST) for state, share in shares.items()
        ],
        needs=enough,
    )


def observed_pairs(config: ExplicitConfig, sweep: Sweep) -> Observation:
    """Say how much the positive pairs weigh."""
    parts = [
        f"at the {state} {by_model(config, sweep, state, 'positive_part').mean():.1%}"
        for state in STATES
    ]
    return Observation(
        source="A.1, (25)",
        statement="Most pairs of modes of two batches add to chi_pos.",
        seen=f"positive pairs are, of the sum of absolute values: {'; '.join(parts)}",
    )


def observed(start: Spectra, end: Spectra) -> Observation:
    """Say whether coefficients or eigenvalues move chi_pos, by exchanging one of the two."""
    only_gamma = Spectra(start.p, end.gamma2).chi_pos
    only_p = Spectra(end.p, start.gamma2).chi_pos
    names = {"start": start.chi_pos, "end": end.chi_pos}
    names |= {"gamma of the end, p of the start": only_gamma}
    names |= {"p of the end, gamma of the start": only_p}
    return Observation(
        source="D.5, ours",
        statement="chi_pos falls because gamma_k^2 shift, and not because p_k do.",
        seen="; ".join(f"{name} {np.exp(np.log(x).mean()):.3g}" for name, x in names.items()),
    )


def _change_of_position(start: Spectra, end: Spectra) -> Float[np.ndarray, " model"]:
    return _by_model(np.log10(end.chi_pos) - np.log10(start.chi_pos))


def _by_model(values: Float[np.ndarray, "model sample"]) -> Float[np.ndarray, " model"]:
    """Return a mean over the sequences of every model."""
    return values.mean(axis=1)
