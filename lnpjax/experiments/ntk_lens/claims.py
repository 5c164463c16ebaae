"""What NTK Lens claims of scaling models and data (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lnpjax.experiments._harness.claims import Claim, decide
from lnpjax.experiments.ntk_lens.families import Family

LOSS_EXPONENTS = (0.35, 0.65)
FLAT = 0.2
ORDERED = 0.8
TOLERANCE = 0.15
CLEAR_GAIN = 2.0


def each(
    found: Sequence[Family],
    source: str,
    statement: str,
    shown: Callable[[Family], str],
    holds: Callable[[Family], bool],
    rule: str,
    *,
    known: bool = True,
) -> Claim:
    """A claim that holds if it holds for every set and depth."""
    return Claim(
        source=source,
        statement=statement,
        measured="; ".join(f"{family.name}: {shown(family)}" for family in found),
        verdict=decide(all(holds(family) for family in found), known=known),
        rule=f"{rule}; for every set and depth",
    )


def from_to(family: Family, column: str) -> str:
    """Return the first and the last mean of a column, as text."""
    means = family.means(column)
    return f"{means[0]:.3g} to {means[-1]:.3g}"


def inside(found: Sequence[Family]) -> Claim:
    """Judge whether the lowest test loss falls inside of the training."""
    outside = [
        f"{family.name}, {family.scale} {scale:g}"
        for family in found
        for scale, inside in zip(family.scales, family.ensembles("inside"), strict=True)
        if not inside
    ]
    count = sum(len(family.scales) for family in found)
    return Claim(
        source="D.1",
        statement="Learning rates are such that the test loss is lowest inside training.",
        measured=f"in {count - len(outside)} of {count} ensembles"
        + (f"; not in {'; '.join(outside)}" if outside else ""),
        verdict=decide(not outside),
        rule="holds if the minimum of the mean test loss of every ensemble lies between the epochs "
        "that the config names",
    )


def loss_law(found: Sequence[Family]) -> Claim:
    """Judge the exponent of the lowest test loss."""

    def excess(family: Family) -> float:
        """Exponent of what is left to the loss at the largest scale, which is taken for the limit.

        It is not fitted next to its own limit, and means that lie below it have no logarithm.
        """
        means = family.means("test_loss")
        left = means[:-2] - means[-1]
        known = left > 0
        if known.sum() < 2:
            return np.nan
        return -np.polyfit(np.log(family.scales[:-2][known]), np.log(left[known]), 1)[0]

    def holds(family: Family) -> bool:
        low, high = LOSS_EXPONENTS
        return any(low <= a <= high for a in (-family.straight("test_loss").value, excess(family)))

    return each(
        found,
        "Fig. 2",
        "The test loss follows a power law with an exponent of about 0.5.",
        lambda family: (
            f"{-family.straight('test_loss').value:.2f}, of what exceeds the last "
            f"{excess(family):.2f} ({from_to(family, 'test_loss')})"
        ),
        holds,
        f"holds if the exponent of the loss, or of what exceeds that of the largest scale, lies "
        f"in {LOSS_EXPONENTS}",
    )


def alignments(found: Sequence[Family]) -> list[Claim]:
    """Judge how the kernel turns towards the labels."""

    def change(family: Family) -> float:
        moved = family.means("alignment_at_minimum") - family.means("alignment_start")
        return float(np.abs(moved).max())

    def turns(family: Family) -> np.ndarray:
        return np.array(
            [
                (values[0], values[-1])
                for scale in family.ensembles(family.scale)
                if len(values := family.until_minimum("dynamics", "misalignment", scale))
            ]
        )

    return [
        each(
            found,
            "Fig. 8",
            "The label alignment barely changes.",
            lambda family: (
                f"by {change(family):.3f} at most, from "
                f"{family.means('alignment_start').mean():.3f}"
            ),
            lambda family: change(family) <= 0.1,
            "holds if no ensemble's mean changes by more than 0.1 up to the minimum",
        ),
        each(
            found,
            "Fig. 8",
            "Eigenvectors turn fastest at the start, and ever less.",
            lambda family: " to ".join(f"{value:.2f}" for value in turns(family).mean(axis=0)),
            lambda family: bool(np.all(turns(family)[:, 1] < turns(family)[:, 0])),
            "holds if the misalignment between measurements is smaller at the last spectrum before "
            "the minimum than at the first, in every ensemble",
        ),
    ]
