"""Every rule of batch sizes on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments._harness.claims import Need
from lnpjax.experiments.spectral_lens_batch_sizes import claims
from lnpjax.experiments.spectral_lens_batch_sizes.config import PRESETS
from lnpjax.experiments.spectral_lens_batch_sizes.results import Family, variance_ratio

CPU = PRESETS["cpu"]
SIZES = np.array(CPU.batch_sizes, float)
SCATTER = 0.02


def family(
    rng, *, apart=0.0, slope=0.0, level=1.0, ranked=1.0, cost=0.0, late=0.5, spread=0.1, ranks=0.0
):
    """The runs of a variant.

    Args:
        rng: draws batch sizes and seeds.
        apart: standard deviation of exponents between batch sizes.
        slope: of exponents with each doubling.
        level: of exponents.
        ranked: 1 where early exponents order costs, -1 where in reverse, 0 where not at all.
        cost: log of the smallest batch's tokens over those of the reference.
        late: advantage of the last layer.
        spread: of the logarithm of tokens with each doubling, upwards.
        ranks: standard deviation of the ranks' logarithm between matrices.
    """
    shape = (len(SIZES), len(CPU.seeds))
    doublings = np.log2(SIZES / CPU.reference_batch_size)

    def drawn(by_size):
        return by_size[:, None] + SCATTER * rng.standard_normal(shape)

    exponents = level + slope * doublings + apart * rng.standard_normal(len(SIZES))
    tokens = spread * doublings
    if cost:
        tokens = cost * doublings / doublings[0]
    noise = rng.permutation(len(SIZES)) * 0.1
    return Family(
        tokens=np.exp(drawn(tokens)),
        early=drawn(ranked * tokens if ranked else noise),
        tail=drawn(exponents),
        head=drawn(exponents),
        gradient=drawn(exponents),
        matrices=ranks * rng.standard_normal((4, 1))
        + SCATTER * rng.standard_normal((len(SIZES), 4, len(CPU.seeds))),
        late_advantage=late + 0.2 * rng.standard_normal(len(CPU.seeds)),
    )


def families(rng, **how):
    return {name: family(rng, **how) for name in CPU.variants}


def pair(rng, muon, adam):
    return {"LSWA": family(rng, **muon), "LSWA-Adam": family(rng, **adam)}


def case(rule, verdict, **how):
    sized = rule is claims.small_batches_cost_more
    return World(lambda rng: rule(families(rng, **how), *((CPU,) if sized else ()), []), verdict)


def duel(rule, verdict, muon, adam):
    sized = rule is claims.muon_differs_more
    return World(
        lambda rng: rule(pair(rng, muon, adam), *((CPU.batch_sizes,) if sized else ()), []), verdict
    )


WORLDS = {
    "geometry differs": case(claims.geometry_differs, "holds", apart=0.3, slope=0.3),
    "geometry is the same": case(claims.geometry_differs, "not holds"),
    "tails rank": case(claims.early_tails_rank, "holds"),
    "tails rank in reverse": case(claims.early_tails_rank, "does not hold", ranked=-1.0),
    "tails say nothing": case(claims.early_tails_rank, "not holds", ranked=0.0),
    "families align": case(claims.early_tails_rank_families, "holds"),
    "families align in reverse": case(
        claims.early_tails_rank_families, "does not hold", ranked=-1.0
    ),
    "Adam differs": duel(claims.adam_differs_too, "holds", {}, {"slope": 0.3}),
    "Adam does not differ": duel(claims.adam_differs_too, "not holds", {"slope": 0.3}, {}),
    "Muon differs more": duel(claims.muon_differs_more, "holds", {"slope": 0.2}, {"slope": -0.1}),
    "Adam differs more": duel(
        claims.muon_differs_more, "does not hold", {"slope": 0.1}, {"slope": -0.2}
    ),
    "Muon is sharper": duel(claims.muon_has_sharper_heads, "holds", {"level": 1.2}, {}),
    "Adam is sharper": duel(claims.muon_has_sharper_heads, "does not hold", {}, {"level": 1.2}),
    "heads nearly alike": duel(claims.muon_has_sharper_heads, "not holds", {}, {"level": 1.01}),
    "seeds are negligible": case(claims.seeds_are_negligible, "holds", slope=0.3),
    "seeds are not": case(claims.seeds_are_negligible, "does not hold", slope=0.005),
    "late layers lead": case(claims.late_layers_rank_better, "holds"),
    "early layers lead": case(claims.late_layers_rank_better, "does not hold", late=-0.5),
    "matrices differ": case(claims.matrices_differ, "holds", ranks=0.2),
    "matrices are alike": case(claims.matrices_differ, "not holds"),
    "small batches cost more": case(claims.small_batches_cost_more, "holds", cost=0.4),
    "small batches cost less": case(claims.small_batches_cost_more, "does not hold", cost=-0.4),
    "small batches cost a little": case(claims.small_batches_cost_more, "not holds", cost=0.01),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rules_tell_what_is_true(name):
    assert not WORLDS[name].fails(2 if "align" in name else 30)  # p-values of pooled orders cost


@pytest.mark.parametrize("name", WORLDS)
def test_rules_tell_what_is_true_in_many_worlds(name):
    assert not WORLDS[name].fails(200)


def test_claims_need_a_target():
    claim = claims.claim_without([Need("a target", met=False)])
    assert claim.verdict == "set-up short of the paper"


def test_claims_of_early_spectra_need_them():
    table = np.ones((5, 2))
    seen = Family(*[table] * 5, np.ones((5, 4, 2)), np.ones(2))
    missed = seen._replace(early=np.where(np.eye(5, 2) > 0, np.nan, 1.0))
    assert claims.measured_early({"a": seen}).met
    assert not claims.measured_early({"a": seen, "b": missed}).met


def test_the_variance_ratio_is_unbiased_in_its_middle():
    """Of the true ratio 4, half of the estimates lie below; and intervals hold it."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        table = 2 * rng.standard_normal((5, 1)) + rng.standard_normal((5, 2))
        low, high = variance_ratio([table]).interval(0.95)
        held += low <= 4 <= high
    assert 182 <= held <= 198
