"""Rows of worlds in which a claim is true or false, to try the rules that judge them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments.ntk_lens.families import Ensemble, Family

EPOCHS = np.arange(0, 241, 4)
POINTS = np.array([0, 1, 2, 4, 8, 15, 30, 60])
BEST = 30

Make = Callable[[np.random.Generator, float, int], np.ndarray]


def verdicts(claim_of: Callable[[np.random.Generator], Claim], trials: int = 60) -> Counter:
    """How often a claim meets which fate, over worlds drawn anew."""
    return Counter(claim_of(np.random.default_rng(trial)).verdict for trial in range(trials))


def mostly(counts: Counter, verdict: str) -> bool:
    """Whether a verdict is met at least 95 % of the time."""
    return counts[verdict] >= 0.95 * counts.total()


def rarely(counts: Counter, verdict: str) -> bool:
    """Whether a verdict is met at most 5 % of the time."""
    return counts[verdict] <= 0.05 * counts.total()


def scattered(mean: float, scatter: float) -> Make:
    """Members about a mean, with that relative scatter."""
    return lambda rng, scale, count: mean * (1 + scatter * rng.standard_normal(count))


class World(NamedTuple):
    """A world in which a claim is true or false.

    Attributes:
        claim_of: the claim on rows that are drawn there.
        verdict: that it must meet at least 95 % of the time; "not holds" where only that one must
            not be met, at least as often.
    """

    claim_of: Callable[[np.random.Generator], Claim]
    verdict: str

    def fails(self, trials: int) -> str:
        """What is wrong with the rule, with the count of verdicts; nothing if it is right."""
        counts = verdicts(self.claim_of, trials)
        if self.verdict == "not holds":
            right = rarely(counts, "holds")
        else:
            right = mostly(counts, self.verdict)
        return "" if right else f"expected {self.verdict}, got {dict(counts)}"


def law(mean: Callable[[float], float], scatter: float | Callable[[float], float] = 0.05) -> Make:
    """Members about a mean that depends on the scale."""

    def make(rng: np.random.Generator, scale: float, count: int) -> np.ndarray:
        spread = scatter(scale) if callable(scatter) else scatter
        # Positive, with the stated mean.
        width = np.log1p(spread**2) ** 0.5
        return mean(scale) * np.exp(width * rng.standard_normal(count) - width**2 / 2)

    return make


def paths(
    rng: np.random.Generator,
    count: int,
    *,
    start: float = 100.0,
    growth: float = 50.0,
    scatter: float = 0.08,
    dip: float = 0.0,
) -> dict[str, np.ndarray]:
    """A trace that is linear in the log of a training loss that decays exponentially.

    Args:
        rng: draws the members.
        count: how many.
        start: the trace before training.
        growth: of the trace with each fall of the loss by a factor of e: the adaptation rate.
        scatter: of members' growth.
        dip: how far the trace falls at first, as a share of its growth up to the minimum.
    """
    time = np.arange(len(EPOCHS)) / BEST
    decay = 2.0 * time  # of the log loss
    rates = growth * (1 + scatter * rng.standard_normal((count, 1)))
    fall = dip * 2.0 * growth * np.minimum(time / 0.2, 1) * np.maximum(1 - time / 2, 0)
    starts = start * (1 + scatter * rng.standard_normal((count, 1)))
    losses = 2.3 * np.exp(-decay) * np.exp(0.05 * rng.standard_normal((count, 1)))
    test = 0.8 + 0.7 * (time - 1) ** 2 + 0.01 * rng.standard_normal((count, 1))
    trace = starts + rates * decay - fall
    return {"train_loss": losses, "test_loss": test, "trace": trace}


def family(
    rng: np.random.Generator,
    scales: Sequence[float],
    columns: Mapping[str, Make] | None = None,
    *,
    images: str = "mnist",
    depth: int = 3,
    scaled: str = "width",
    members: Callable[[float], int] = lambda scale: 20,
    path_of: Callable[[np.random.Generator, float, int], dict[str, np.ndarray]] | None = None,
    spectra: Callable[[np.random.Generator, int], dict[str, np.ndarray]] | None = None,
    expected_trace: Callable[[float], float] = lambda scale: np.nan,
    inside: Callable[[float], bool] = lambda scale: True,
) -> Family:
    """The ensembles of one set and depth in such a world."""
    ensembles = []
    for scale in scales:
        count = members(scale)
        made = {name: make(rng, scale, count) for name, make in (columns or {}).items()}
        made.setdefault("test_loss", np.ones(count))
        ensembles.append(
            Ensemble(
                scale=float(scale),
                inside=inside(scale),
                best=BEST,
                expected_trace=expected_trace(scale),
                adaptation_path=np.zeros(len(EPOCHS)),
                epochs=EPOCHS,
                points=POINTS,
                members=made,
                paths={} if path_of is None else path_of(rng, scale, count),
                spectra={} if spectra is None else spectra(rng, count),
            )
        )
    return Family(images=images, depth=depth, scaled=scaled, window=5, ensembles=ensembles)  # type: ignore[arg-type]
