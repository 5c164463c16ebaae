"""Every rule of the chain on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments._harness.claims import Claim, Need
from lnpjax.experiments._harness.estimates import contrast, scatter
from lnpjax.experiments.spectral_lens_chain import claims
from lnpjax.experiments.spectral_lens_chain.config import CHAIN, PRESETS
from lnpjax.experiments.spectral_lens_chain.results import step_weights
from lnpjax.models import LSWA_ADAM

CPU = PRESETS["cpu"]
SCATTER = 0.02
LEARNING = (*claims.ACTIVATION_LED, *claims.GRADIENT_LED)


def groups(rng, steps=None, *, muon=0.0, each=0.0):
    """A number by variant and seed, which changes by these steps along the chain.

    Args:
        rng: draws the seeds.
        steps: the change that a variant brings; of any sign, which is drawn anew.
        muon: LSWA less LSWA-Adam.
        each: scatter of the variants themselves.
    """
    steps = steps or {}
    means, level = {}, 1.0
    for name in CHAIN:
        level += steps.get(name, 0.0)
        means[name] = level + each * rng.standard_normal()
    means[LSWA_ADAM] = means["LSWA"] - muon
    return {
        name: mean + SCATTER * rng.standard_normal(len(CPU.seeds_of(name)))
        for name, mean in means.items()
    }


def chain(rng, **made):
    """Numbers of all claims at one loss; those that a claim does not read are noise."""
    names = claims.Numbers._fields
    numbers = claims.Numbers(*(made.get(name, groups(rng)) for name in names))
    return claims.Chain(dict.fromkeys((*CHAIN[1:], LSWA_ADAM), 2.0), {2.0: numbers}, numbers)


def by(names, size):
    return dict.fromkeys(names, size)


def shaken(rng, names, size):
    """Steps of that size, up or down."""
    return {name: size * rng.choice([-1, 1]) for name in names}


def world(rule, make, verdict):
    return World(lambda rng: rule(chain(rng, **make(rng)), []), verdict)


WORLDS = {
    "learning saves": world(
        claims.learning_changes_save_tokens,
        lambda rng: {"tokens": groups(rng, by(LEARNING, -0.25))},
        "holds",
    ),
    "learning costs": world(
        claims.learning_changes_save_tokens,
        lambda rng: {"tokens": groups(rng, by(LEARNING, 0.25))},
        "does not hold",
    ),
    "one of six costs": world(
        claims.learning_changes_save_tokens,
        lambda rng: {"tokens": groups(rng, by(LEARNING, -0.25) | {"VTE": 0.05})},
        "not holds",
    ),
    "execution saves less": world(
        claims.others_save_fewer,
        lambda rng: {"tokens": groups(rng, by(LEARNING, -0.1))},
        "holds",
    ),
    "execution saves more": world(
        claims.others_save_fewer,
        lambda rng: {"tokens": groups(rng, by(claims.THROUGHPUT, -0.1))},
        "does not hold",
    ),
    "heads move where activations lead": world(
        claims.heads_move,
        lambda rng: {"activations": groups(rng, shaken(rng, claims.ACTIVATION_LED, 0.2))},
        "holds",
    ),
    "heads move where execution changes": world(
        claims.heads_move,
        lambda rng: {"activations": groups(rng, shaken(rng, claims.THROUGHPUT, 0.2))},
        "does not hold",
    ),
    "heads do not move": world(claims.heads_move, lambda rng: {}, "not holds"),
    "gradients move more": world(
        claims.gradients_move_more,
        lambda rng: {"gradients": groups(rng, shaken(rng, claims.GRADIENT_LED, 1.0))},
        "holds",
    ),
    "activations move more": world(
        claims.gradients_move_more,
        lambda rng: {"activations": groups(rng, shaken(rng, claims.GRADIENT_LED, 1.0))},
        "does not hold",
    ),
    "neither moves": world(claims.gradients_move_more, lambda rng: {}, "not holds"),
    "Muon is steeper": world(
        claims.muon_has_sharper_heads,
        lambda rng: {"activations": groups(rng, muon=0.2)},
        "holds",
    ),
    "Adam is steeper": world(
        claims.muon_has_sharper_heads,
        lambda rng: {"activations": groups(rng, muon=-0.2)},
        "does not hold",
    ),
    "the prefix moves most": world(
        claims.prefix_moves_most,
        lambda rng: {"activations": groups(rng, shaken(rng, claims.PREFIX, 0.3))},
        "holds",
    ),
    "the trunk moves most": world(
        claims.prefix_moves_most,
        lambda rng: {"activations": groups(rng, shaken(rng, claims.TRUNK, 0.3))},
        "does not hold",
    ),
    "feed-forwards diverge": world(
        claims.mlp_outputs_diverge,
        lambda rng: {"outputs": groups(rng, each=0.05), "mlp_outputs": groups(rng, each=0.3)},
        "holds",
    ),
    "attentions diverge": world(
        claims.mlp_outputs_diverge,
        lambda rng: {"outputs": groups(rng, each=0.3), "mlp_outputs": groups(rng, each=0.05)},
        "does not hold",
    ),
    "both diverge alike": world(
        claims.mlp_outputs_diverge,
        lambda rng: {"outputs": groups(rng, each=0.2), "mlp_outputs": groups(rng, each=0.2)},
        "not holds",
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rules_tell_what_is_true(name):
    assert not WORLDS[name].fails(30)


@pytest.mark.parametrize("name", WORLDS)
def test_rules_tell_what_is_true_in_many_worlds(name):
    assert not WORLDS[name].fails(300)


def test_claims_need_a_target_and_a_scatter():
    claim = claims.claim_without([Need("a target", met=False)])
    assert isinstance(claim, Claim)
    assert claim.verdict == "set-up short of the paper"
    rng = np.random.default_rng(0)
    needs = [Need("a scatter", met=False)]
    assert claims.prefix_moves_most(chain(rng), needs).verdict == "set-up short of the paper"


def test_errors_of_contrasts_are_those_of_seeds():
    made = {"Baseline": np.array([1.0, 3.0]), "RoPE": np.array([5.0]), "Muon": np.array([2.0, 2.0])}
    assert scatter(made) == (1.0, 2)
    step = contrast(made, step_weights({"RoPE": 1.0}))
    assert (step.value, step.error, step.df) == (3.0, (1 + 1 / 2) ** 0.5, 2)
    both = contrast(made, step_weights({"RoPE": 0.5, "Muon": 0.5}))
    assert (both.value, both.error) == (0.0, 0.5)  # RoPE itself does not count


def test_a_variant_that_falls_behind_does_not_blur_the_others():
    """Its seeds scatter at its own loss alone; changes at several losses add up."""
    rng = np.random.default_rng(0)
    late, early = groups(rng, by(LEARNING, -0.25)), groups(rng, by(LEARNING, -0.25))
    early["Baseline"] = early["Baseline"] + np.array([3.0, -3.0])
    del late["Baseline"]
    noise = chain(rng).common
    at = {2.0: noise._replace(tokens=late), 3.0: noise._replace(tokens=early)}
    targets = dict.fromkeys((*CHAIN[1:], LSWA_ADAM), 2.0) | {"RoPE": 3.0}
    mixed = claims.Chain(targets, at, at[2.0])
    found = claims.learning_changes_save_tokens(mixed, []).findings
    errors = {finding.what: finding.estimate.error for finding in found}
    assert errors.pop("RoPE") > 1
    assert max(errors.values()) < 0.05
    both = mixed.change("tokens", {"RoPE": 0.5, "Untied": 0.5})
    parts = [mixed.change("tokens", {name: 0.5}) for name in ("RoPE", "Untied")]
    assert both.value == pytest.approx(sum(part.value for part in parts))
    assert both.error == pytest.approx(np.hypot(*(part.error for part in parts)))
