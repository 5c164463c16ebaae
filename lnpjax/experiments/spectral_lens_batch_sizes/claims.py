"""What Spectral Lens claims of batch sizes (section 3; D; E; G.1), judged by a sweep.

At equal loss means at the lowest target that all runs of a comparison meet; a family of which a run
meets none is left out. Seeds are the unit: how far batch sizes differ is judged by how far seeds
do, pooled over batch sizes; correlations over batch sizes are those of one seed and family each,
and these are the unit then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.comparison import family_correlations, spearman
from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    Bounds,
    Groups,
    Uncertain,
    contrast,
    jackknifed,
    mean_of,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_batch_sizes.results import (
    EARLY,
    Family,
    Table,
    family_of,
    inefficiency,
    target_of,
    variance_ratio,
)
from lnpjax.models import LSWA_ADAM

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_batch_sizes.config import BatchSizeConfig

MUON = "LSWA"
LEAST_SIZES, LEAST_FACTOR, LEAST_SEEDS, LEAST_FAMILIES = 4, 16, 2, 2
POSITIVE = Bounds(low=0.0)
RANKED = Bounds(low=0.8)
NEGLIGIBLE = Bounds(low=9.0)  # a standard deviation among seeds below a third of that between sizes
SUBSTANTIAL = Bounds(low=float(np.log(1.1)))

Families = Mapping[str, Family]


def judge(config: BatchSizeConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    sizes, seeds = config.batch_sizes, len(config.seeds)
    factor = sizes[-1] / sizes[0]
    targets = {variant: target_of(config, sweep, [variant]) for variant in config.variants}
    met = {
        variant: family_of(config, sweep, variant, target)
        for variant, target in targets.items()
        if target is not None
    }
    needs = [
        Need.at_least(LEAST_SIZES, "batch sizes", len(sizes)),
        Need(f"over a factor of {LEAST_FACTOR}", factor >= LEAST_FACTOR, f"{factor:g}"),
        Need.at_least(LEAST_SEEDS, "seeds", seeds),
        Need(
            f"{LEAST_FAMILIES} families of which every run meets a target",
            len(met) >= LEAST_FAMILIES,
            f"{len(met)} of {len(targets)}",
        ),
    ]
    if not all(need.met for need in needs):
        return [claim_without(needs), _rates(config, sweep)]
    early = [*needs, measured_early(met)]
    return [
        geometry_differs(met, needs),
        early_tails_rank(met, early),
        early_tails_rank_families(met, early),
        *muon_and_adam(config, sweep, needs),
        seeds_are_negligible(met, needs),
        late_layers_rank_better(met, early),
        matrices_differ(met, needs),
        small_batches_cost_more(met, config, needs),
        _tokens(config, met, targets),
        _rates(config, sweep),
    ]


def claim_without(needs: list[Need]) -> Claim:
    """Stand in for all claims where nothing can be compared."""
    return Claim(
        source="section 3",
        statement="Batch size leaves distinct and predictive spectral signatures.",
        quantity="exponents of spectra at equal loss and early in training",
        findings=[],
        needs=needs,
    )


def measured_early(families: Families) -> Need:
    """Whether every run had a spectrum taken as early as exponents are read."""
    late = [name for name, family in families.items() if np.isnan(family.early).any()]
    what = f"spectra before {EARLY * 100:.0f} % of the fewest tokens to the target"
    return Need(what, not late, f"not of {', '.join(late)}" if late else "")


def geometry_differs(families: Families, needs: list[Need]) -> Claim:
    """Judge whether spectra at one loss differ between batch sizes in every family."""
    return Claim(
        source="section 3 (1); Fig. 1a",
        statement="Runs of one architecture that reach the same loss in different batches have "
        "systematically different activation spectra.",
        quantity="variance of the tail exponent between batch sizes at the target, over that among "
        "seeds",
        findings=[
            Finding(name, variance_ratio([family.tail]), POSITIVE)
            for name, family in families.items()
        ],
        needs=needs,
    )


def early_tails_rank(families: Families, needs: list[Need]) -> Claim:
    """Judge whether early tail exponents order batch sizes within families."""
    rho = [
        spearman(early, tokens).rho
        for family in families.values()
        for early, tokens in zip(family.early.T, family.tokens.T, strict=True)
    ]
    return Claim(
        source="section 3 (2); Fig. 2a",
        statement="The early tail exponent orders batch sizes by the tokens that they need: mean "
        "rho within families of 0.97.",
        quantity=f"Spearman's rho over batch sizes, exponents after {EARLY:.0%} of the fewest "
        "tokens to the target; mean over families and seeds".replace("%", " %"),
        findings=[Finding("", mean_of(rho), RANKED)],
        needs=needs,
    )


def early_tails_rank_families(families: Families, needs: list[Need]) -> Claim:
    """Judge whether normalised early exponents align families."""
    pairs = [
        (early, costs)
        for family in families.values()
        for early, costs in zip(family.early.T, inefficiency(family).T, strict=True)
    ]

    def pooled(members: np.ndarray) -> float:
        early, costs = zip(*(pairs[member] for member in members), strict=True)
        return family_correlations(early, costs).pooled.rho

    estimate = jackknifed(len(pairs), pooled) if len(pairs) > 1 else UNKNOWN
    return Claim(
        source="section 3 (2); Fig. 2a",
        statement="Normalised by family, early tail exponents align architectures: rho across "
        "families of 0.93.",
        quantity="Spearman's rho of min-max normalised exponents and token inefficiency, pooled "
        "over families and seeds; error by the jackknife over these",
        findings=[Finding("", estimate, RANKED)],
        needs=needs,
        note="The normalisation alone makes a correlation above zero.",
    )


def muon_and_adam(config: BatchSizeConfig, sweep: Sweep, needs: list[Need]) -> list[Claim]:
    """Judge the claims of Fig. 7, at a target that the runs of both optimizers meet."""
    pair = (MUON, LSWA_ADAM)
    both = set(pair) <= set(config.variants)
    target = target_of(config, sweep, pair) if both else None
    here = f"{target}" if both else "not both were trained"
    needs = [*needs, Need("LSWA by Muon and by Adam at one loss", target is not None, here)]
    if target is None:
        families = {}
    else:
        families = {name: family_of(config, sweep, name, target) for name in pair}
    return [
        adam_differs_too(families, needs),
        muon_differs_more(families, config.batch_sizes, needs),
        muon_has_sharper_heads(families, needs),
    ]


def adam_differs_too(families: Families, needs: list[Need]) -> Claim:
    """Judge whether batch sizes differ under Adam."""
    chosen = [LSWA_ADAM] if families else []
    return Claim(
        source="D; Fig. 7",
        statement="Under Adam, batch sizes still have different activation spectra at equal loss.",
        quantity="variance of the exponent between batch sizes at the target, over that among "
        "seeds",
        findings=[
            Finding(what, variance_ratio([getattr(families[name], what)]), POSITIVE)
            for name in chosen
            for what in ("head", "tail")
        ],
        needs=needs,
    )


def muon_differs_more(families: Families, sizes: Sequence[int], needs: list[Need]) -> Claim:
    """Judge whether exponents depend more on the batch size under Muon."""
    findings = [
        Finding(what, _steeper([getattr(family, what) for family in families.values()], sizes),
                POSITIVE)
        for what in ("head", "tail")
        if families
    ]  # fmt: skip
    return Claim(
        source="D; Fig. 7",
        statement="Muon separates batch sizes more than Adam, in the leading modes above all.",
        quantity="absolute change of the exponent at the target with each doubling of the batch: "
        "under Muon less under Adam",
        findings=findings,
        needs=needs,
        note="Absolute changes of noise are above zero on both sides.",
    )


def muon_has_sharper_heads(families: Families, needs: list[Need]) -> Claim:
    """Judge whether Muon makes steeper heads than Adam at equal loss."""
    findings = []
    if families:
        muon, adam = (family.head for family in families.values())
        groups = _groups([muon, adam])
        share = 1 / len(muon)
        weights = dict.fromkeys(groups, -share) | dict.fromkeys(_groups([muon]), share)
        findings = [Finding("", contrast(groups, weights), POSITIVE)]
    return Claim(
        source="section 3 (1)",
        statement="Muon produces sharper head concentration than Adam.",
        quantity="head exponent of activations at the target, mean over batch sizes: of Muon less "
        "of Adam",
        findings=findings,
        needs=needs,
    )


def seeds_are_negligible(families: Families, needs: list[Need]) -> Claim:
    """Judge whether seeds differ by much less than batch sizes do."""
    return Claim(
        source="E.2; Fig. 9",
        statement="Seed-to-seed variation of spectra is negligible relative to the separation of "
        "batch sizes.",
        quantity="variance of the exponent between batch sizes at the target, over that among "
        "seeds; pooled over families",
        findings=[
            Finding(what, variance_ratio([getattr(family, field) for family in families.values()]),
                    NEGLIGIBLE)
            for what, field in (("activations' tail", "tail"), ("gradients' head", "gradient"))
        ],
        needs=needs,
    )  # fmt: skip


def late_layers_rank_better(families: Families, needs: list[Need]) -> Claim:
    """Judge whether the last layer's early exponents predict better than those of early layers."""
    values = np.concatenate([family.late_advantage for family in families.values()])
    return Claim(
        source="E.3; Fig. 10",
        statement="The deepest probed layer predicts best; early ones are weak or of either sign.",
        quantity="rho of the last layer less the mean of the two earliest; mean over families and "
        "seeds",
        findings=[Finding("", mean_of(values), POSITIVE)],
        needs=needs,
    )


def matrices_differ(families: Families, needs: list[Need]) -> Claim:
    """Judge whether gradients of four matrices have different ranks at one loss."""
    return Claim(
        source="E; Fig. 6",
        statement="Gradient spectra depend on the probed weight matrix.",
        quantity="variance of the logarithm of RankMe between four matrices of the last layer at "
        "the target, over that among seeds; pooled over batch sizes",
        findings=[
            Finding(name, variance_ratio(list(family.matrices)), POSITIVE)
            for name, family in families.items()
        ],
        needs=needs,
    )


def small_batches_cost_more(
    families: Families, config: BatchSizeConfig, needs: list[Need]
) -> Claim:
    """Judge whether the smallest batch needs more tokens than the reference."""
    reference = str(config.batch_sizes.index(config.reference_batch_size))
    weights = {"0": 1.0, reference: -1.0}
    return Claim(
        source="G.1; Fig. 12",
        statement="Smaller batches require substantially more tokens than the efficient regime, "
        "near the reference batch size in most variants.",
        quantity="log of the tokens to the target: smallest batch less the reference",
        findings=[
            Finding(name, contrast(_groups([np.log(family.tokens)]), weights), SUBSTANTIAL)
            for name, family in families.items()
        ],
        needs=needs,
    )


def _groups(tables: Sequence[Table]) -> Groups:
    """Return the seeds of every batch size as a group, numbered through all tables."""
    return {str(index): row for index, row in enumerate(row for table in tables for row in table)}


def _steeper(tables: Sequence[Table], sizes: Sequence[int]) -> Uncertain:
    """Return the absolute slope of the first table on log2 B, less that of the second."""
    doublings = np.log2(sizes) - np.mean(np.log2(sizes))
    slope = doublings / np.sum(doublings**2)
    signs = [np.sign(slope @ table.mean(axis=1)) for table in tables]
    weights = np.concatenate([signs[0] * slope, -signs[1] * slope])
    return contrast(
        _groups(tables), {str(index): float(weight) for index, weight in enumerate(weights)}
    )


def _tokens(
    config: BatchSizeConfig, families: Families, targets: Mapping[str, float | None]
) -> Observation:
    seen = []
    for name, family in families.items():
        costs = inefficiency(family).mean(axis=1)
        numbers = ", ".join(
            f"{size}: {cost:.2f}" for size, cost in zip(config.batch_sizes, costs, strict=True)
        )
        seen.append(f"{name} at {targets[name]:g} nats {numbers}")
    return Observation(
        source="G.1; Fig. 12",
        statement="Token efficiency is best near the reference batch size.",
        seen=f"tokens to the target over the fewest, by batch size, mean over seeds: "
        f"{'; '.join(seen)}",
    )


def _rates(config: BatchSizeConfig, sweep: Sweep) -> Observation:
    seen = []
    for variant in config.variants:
        factors = [
            sweep.rows(kind="search", variant=variant, batch_size=size)[-1]["factor"]
            for size in config.batch_sizes
        ]
        numbers = ", ".join(
            f"{size}: {factor:.2g}"
            for size, factor in zip(config.batch_sizes, factors, strict=True)
        )
        seen.append(f"{variant} {numbers}")
    return Observation(
        source="B.3",
        statement="Learning rates are searched for each batch size.",
        seen=f"factors of the paper's rates that were chosen, by batch size: {'; '.join(seen)}",
    )
