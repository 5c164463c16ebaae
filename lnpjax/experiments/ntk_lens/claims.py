"""What NTK Lens claims of scaling models and data (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    Bounds,
    Uncertain,
    mean_of,
)
from lnpjax.experiments._harness.power_laws import limited_exponent
from lnpjax.experiments.ntk_lens.families import Ensemble, Family

LEAST_MEMBERS = 5
LEAST_SCALES = 6
POSITIVE, NEGATIVE = Bounds(low=0.0), Bounds(high=0.0)
ABOUT_A_HALF = Bounds(0.35, 0.65)
NEAR_A_HALF = Bounds(0.25, 0.75)
BARELY = Bounds(-0.1, 0.1)


def by_family(
    families: Sequence[Family], region: Bounds, estimate: Callable[[Family], Uncertain]
) -> list[Finding]:
    """One finding for every set and depth."""
    return [Finding(family.name, estimate(family), region) for family in families]


def by_ensemble(
    families: Sequence[Family], region: Bounds, estimate: Callable[[Ensemble], Uncertain]
) -> list[Finding]:
    """One finding for every ensemble."""
    return [
        Finding(f"{family.name}, {family.scaled} {ensemble.scale:g}", estimate(ensemble), region)
        for family in families
        for ensemble in family.ensembles
    ]


def inside(families: Sequence[Family]) -> str:
    """In how many ensembles the lowest test loss falls inside of the training, and where not."""
    outside = [
        f"{family.name}, {family.scaled} {ensemble.scale:g}"
        for family in families
        for ensemble in family.ensembles
        if not ensemble.inside
    ]
    count = sum(len(family.ensembles) for family in families)
    text = f"in {count - len(outside)} of {count} ensembles"
    return f"{text}; not in {'; '.join(outside)}" if outside else text


def at_minimum(families: Sequence[Family]) -> list[Need]:
    """What claims about the lowest test loss rest on; they leave out ensembles that missed it."""
    scales = min(len(family.inside.ensembles) for family in families)
    return [
        Need(
            f"test loss lowest inside training (D.1) at {LEAST_SCALES} scales of every set",
            scales >= LEAST_SCALES,
            inside(families),
        ),
        enough_members(families),
    ]


def enough_members(families: Sequence[Family]) -> Need:
    """Members that an error takes."""
    least = min(
        len(ensemble.members["test_loss"]) for family in families for ensemble in family.ensembles
    )
    return Need.at_least(LEAST_MEMBERS, "members in every ensemble", least)


def inside_training(families: Sequence[Family]) -> Observation:
    """Tell where the lowest test loss fell: a precondition, not a finding."""
    return Observation(
        source="D.1",
        statement="Learning rates are such that the test loss is lowest inside training.",
        seen=f"{inside(families)}. Claims about the minimum rest on those in which it is",
    )


def loss_law(families: Sequence[Family]) -> Claim:
    """Judge the exponent of the lowest test loss."""
    estimates = [
        limited_exponent(family.scales, family.members("test_loss"), seed=seed)
        for seed, family in enumerate(family.inside for family in families)
    ]
    findings = [
        Finding(family.name, estimate, NEAR_A_HALF)
        for family, estimate in zip(families, estimates, strict=True)
    ]
    known = [estimate.draws for estimate in estimates if estimate.draws is not None]
    if len(known) == len(estimates) > 0:
        value = float(np.mean([estimate.value for estimate in estimates]))
        mean = Uncertain(value, draws=np.mean(known, axis=0))
        findings.insert(0, Finding("mean", mean, ABOUT_A_HALF))
    return Claim(
        source="Fig. 2",
        statement="The test loss follows a power law with an exponent of about 0.5.",
        quantity="exponent a of limit + amplitude * scale^-a, fitted jointly to the mean lowest "
        "test losses; errors stretched by the misfit",
        findings=findings,
        needs=at_minimum(families),
    )


def largest_fall(family: Family) -> Uncertain:
    """By how much the mean trace falls at most below what it had reached, at the worst scale.

    Args:
        family: its ensembles, each of which is followed up to its minimum.
    """
    falls = []
    for seed, ensemble in enumerate(family.ensembles):
        traces = ensemble.paths["trace"][:, : ensemble.best + 1]
        means = ensemble.weights(0 if family.paired else seed) @ traces
        falls.append(np.max(1 - means / np.maximum.accumulate(means, axis=1), axis=1))
    worst = np.max(falls, axis=0)
    return Uncertain(float(worst[0]), draws=worst[1:])


def alignments(families: Sequence[Family]) -> list[Claim]:
    """Judge how the kernel turns towards the labels."""

    def change(ensemble: Ensemble) -> Uncertain:
        members = ensemble.members
        return mean_of(members["alignment_at_minimum"] - members["alignment_start"])

    def slowing(ensemble: Ensemble) -> Uncertain:
        turns = ensemble.spectra["misalignments"]
        return mean_of(turns[:, ensemble.points_before - 1] - turns[:, 0])

    chosen = [family.inside for family in families]
    needs = [enough_members(families)]
    with_spectra = [family.where(lambda one: one.points_before > 1) for family in chosen]
    return [
        Claim(
            source="Fig. 8",
            statement="The label alignment barely changes.",
            quantity="its change up to the minimum, mean over members, pairs",
            findings=by_ensemble(chosen, BARELY, change),
            needs=needs,
        ),
        Claim(
            source="Fig. 8",
            statement="Eigenvectors turn fastest at the start, and ever less.",
            quantity="misalignment at the last spectrum before the minimum less that at the first, "
            "mean over members, pairs",
            findings=by_ensemble(with_spectra, NEGATIVE, slowing),
            needs=needs,
        ),
    ]
