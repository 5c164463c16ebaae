"""The transition: its rules on synthetic truth, its parts exactly, and its smallest size."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from synthetic_truth import family, mostly, rarely

from lnpjax._base.configs import decode
from lnpjax.data.image_classes import ImageClasses, LabelledImages
from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import judged, reproduce
from lnpjax.experiments._harness.sweep import Sweep, config_to_json
from lnpjax.experiments._harness.tables import claims_json
from lnpjax.experiments.ntk_lens.training import DenseEnsemble, KernelDirections, Problem
from lnpjax.experiments.ntk_lens.transition import EXPERIMENT
from lnpjax.experiments.ntk_lens.transition.claims import (
    beta_turns,
    change_is_constant,
    initial_trace,
    ntk_parametrisation,
    rank_stays,
    turn_together,
)
from lnpjax.experiments.ntk_lens.transition.config import PRESETS, InputSizes, TransitionConfig
from lnpjax.experiments.ntk_lens.transition.measure import problem_at, rule_for
from lnpjax.experiments.ntk_lens.transition.results import Curve, expected_turn
from lnpjax.kernel import dense_kernel, dense_sample_kernel, dense_trace, expected_trace, ntk_scales
from lnpjax.models.vision import MLP

CPU = PRESETS["cpu"]


# As in the networks that were trained.
def scatter_of_traces(width):
    return 0.55 * (8 / width) ** 0.5


def scatter_of_changes(width):
    return max(0.46 * (8 / width), 0.07)


def scatter_of_ranks(width):
    return max(0.16 * (8 / width) ** 0.5, 0.03)


def about(rng, mean, scatter, count):
    """Members about a mean: positive, with that relative scatter."""
    spread = np.log1p(scatter**2) ** 0.5
    return mean * np.exp(spread * rng.standard_normal(count) - spread**2 / 2)


def world(
    rng,
    *,
    turn=lambda pixels, depth: expected_turn(pixels, depth),
    change=lambda width: 1.0,
    rank_turn=lambda pixels, depth: 64.0,
    ntk=False,
    kind=None,
):
    """Curves of the preset's sizes: traces, changes and ranks of members that scatter as real ones.

    Args:
        rng: draws the members.
        turn: where the trace before training has doubled.
        change: of the trace, by width.
        rank_turn: where the rank stops to rise, by pixels.
        ntk: whether the trace before training stays the same, and beta is 30 / width^0.9.
        kind: resolutions, those of the preset by default.
    """
    curves = []
    for depth in CPU.depths:
        for inputs in CPU.inputs:
            for side in inputs.ntk_sides if ntk else inputs.sides:
                place = turn(side**2, depth)

                def columns(width, count, side=side, depth=depth, place=place):
                    growth = 1.0 if ntk else 1 + width / place
                    start = about(rng, growth, scatter_of_traces(width), count)
                    size = 200 * width**-0.9 if ntk else 15 * change(width)
                    grown = about(rng, size, scatter_of_changes(width), count)
                    level = 50 * min(width / rank_turn(side**2, depth), 1) ** 0.25
                    ranks = about(rng, level, scatter_of_ranks(width), count)
                    return {
                        "trace_start": start,
                        "trace_at_minimum": start + grown,
                        "trace_ratio": grown / start,
                        "rank_at_minimum": ranks[: CPU.rank_members],
                    }

                made = family(
                    rng, CPU.widths, depth=depth,
                    expected_trace=lambda width, place=place: 1.0 if ntk else 1 + width / place,
                )  # fmt: skip
                for ensemble, width, count in zip(
                    made.ensembles, CPU.widths, CPU.members, strict=True
                ):
                    ensemble.members.clear()
                    ensemble.members.update({"test_loss": np.ones(count)} | columns(width, count))
                curves.append(
                    Curve(
                        images=inputs.images, depth=depth, scaled="width", window=1,
                        ensembles=made.ensembles, pixels=side**2,
                        parametrization="ntk" if ntk else "standard",
                    )
                )  # fmt: skip
    return curves


def counts_of(claim, trials, **truth):
    """How often a claim meets which fate; one of several is named by its place."""
    rule, place = claim if isinstance(claim, tuple) else (claim, None)
    found = (rule(world(np.random.default_rng(trial), **truth)) for trial in range(trials))
    return Counter((one if place is None else one[place]).verdict for one in found)


TRUE = [
    (initial_trace, {}),
    (change_is_constant, {}),
    (beta_turns, {}),
    ((rank_stays, 0), {}),
    ((rank_stays, 1), {}),
    (turn_together, {"rank_turn": expected_turn}),
    ((ntk_parametrisation, 0), {"ntk": True}),
    ((ntk_parametrisation, 1), {"ntk": True}),
    ((ntk_parametrisation, 2), {"ntk": True}),
]
FALSE = [
    (change_is_constant, {"change": lambda width: width**-0.15}),
    (beta_turns, {"turn": lambda pixels, depth: 300.0}),
    (beta_turns, {"turn": lambda pixels, depth: 4 * pixels}),
    ((rank_stays, 0), {"rank_turn": expected_turn}),
    ((rank_stays, 1), {"rank_turn": expected_turn}),
    (turn_together, {"rank_turn": lambda pixels, depth: 400.0}),
]


def name_of(value):
    rule, *place = value if isinstance(value, tuple) else (value,)
    return "-".join([rule.__name__, *map(str, place)]) if callable(rule) else ""


@pytest.mark.parametrize(("claim", "truth"), TRUE, ids=name_of)
def test_what_is_true_holds(claim, truth):
    assert mostly(counts_of(claim, 1, **truth), "holds")


@pytest.mark.parametrize(("claim", "truth"), FALSE, ids=name_of)
def test_what_is_false_does_not(claim, truth):
    assert mostly(counts_of(claim, 1, **truth), "does not hold")


@pytest.mark.parametrize(("claim", "truth"), TRUE, ids=name_of)
def test_what_is_true_holds_most_of_the_time(claim, truth):
    assert mostly(counts_of(claim, 60, **truth), "holds")


@pytest.mark.parametrize(("claim", "truth"), FALSE, ids=name_of)
def test_what_is_false_rarely_holds(claim, truth):
    assert rarely(counts_of(claim, 20, **truth), "holds")


def test_standard_curves_contradict_what_is_said_of_the_ntk_parametrisation():
    curves = [
        dataclasses.replace(curve, parametrization="ntk")
        for curve in world(np.random.default_rng(0))
        if curve.pixels in (196, 784)
    ]
    verdicts = [claim.verdict for claim in ntk_parametrisation(curves)]
    assert verdicts == ["holds", "does not hold", "does not hold"]


def test_a_rank_without_a_bend_tells_nothing_about_its_place():
    claims = rank_stays(world(np.random.default_rng(0), rank_turn=lambda pixels, depth: 1e9))
    assert {claim.verdict for claim in claims} == {"cannot tell"}


def ntk_network(params, inputs):
    """The NTK parametrisation in its own parameters: W / sqrt(n), and a tenth of the biases."""
    for place, (weight, bias) in enumerate(params):
        inputs = inputs @ weight / weight.shape[0] ** 0.5 + 0.1 * bias
        inputs = inputs if place == len(params) - 1 else jax.nn.relu(inputs)
    return inputs


def as_ntk(state):
    """Parameters of a standard network as those of the NTK parametrisation, the same function."""
    layers = [state["layers"][place] for place in range(len(state["layers"]))]
    pairs = [(layer["kernel"][...], layer["bias"][...]) for layer in layers]
    return [(weight * weight.shape[0] ** 0.5, 10 * bias) for weight, bias in pairs]


def test_kernels_of_the_ntk_parametrisation_are_the_dense_ones():
    sizes = (6, 5, 4, 3)
    state = nnx.state(MLP(sizes, rngs=nnx.Rngs(0)), nnx.Param)
    state = jax.tree.map(lambda leaf: leaf + 0.1, state)  # biases that are not zero
    inputs, scales = jax.random.normal(jax.random.key(1), (7, 6)), ntk_scales(sizes)
    gradients = jax.jit(jax.jacrev(ntk_network))(as_ntk(state), inputs)
    rows = np.hstack([leaf.reshape(21, -1) for leaf in jax.tree.leaves(gradients)])
    exact = rows @ rows.T
    kernel = dense_kernel(state, inputs, scales=scales)
    np.testing.assert_allclose(kernel, exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        dense_sample_kernel(state, inputs, scales=scales),
        np.einsum("ikjk->ij", np.reshape(exact, (7, 3, 7, 3))),
        rtol=1e-4,
        atol=1e-5,
    )
    assert dense_trace(state, inputs, scales=scales) == pytest.approx(float(np.trace(exact)), 1e-4)


def test_the_expected_trace_of_the_ntk_parametrisation_is_the_same_at_every_width():
    inputs = jax.random.uniform(jax.random.key(0), (4, 5))
    traces = [
        expected_trace(sizes, inputs, scales=ntk_scales(sizes))
        for sizes in ((5, 8, 8, 3), (5, 64, 64, 3))
    ]
    assert traces[0] == pytest.approx(float(traces[1]))
    by_hand = 3 * float(jnp.sum(3 / 4 * jnp.sum(inputs**2, axis=1) / 5 + 0.01 * 7 / 4))
    assert traces[0] == pytest.approx(by_hand)


def test_training_in_the_ntk_parametrisation():
    sizes, rate, key = (6, 8, 8, 3), 0.01, jax.random.key(0)
    ensemble = DenseEnsemble(
        sizes, num_ntk=4, every=5, directions=KernelDirections(), parametrization="ntk"
    )
    inputs = jax.random.normal(key, (1, 9, 6))
    labels = jnp.arange(9) % 3
    problem = Problem(inputs, labels[None], inputs[0], labels)
    start = ensemble.start(key[None])
    trained, _ = ensemble.advance(start, problem, np.float32(rate))

    def loss(params):
        logits = ntk_network(params, inputs[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    params = as_ntk(jax.tree.map(lambda leaf: leaf[0], start.params))
    optimizer = optax.adam(rate)
    memory = optimizer.init(params)
    step = jax.jit(jax.grad(loss))
    for _ in range(5):
        updates, memory = optimizer.update(step(params), memory, params)
        params = optax.apply_updates(params, updates)
    after = as_ntk(jax.tree.map(lambda leaf: leaf[0], trained.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), after, params)


def images_of(side):
    pixels = np.random.default_rng(0).integers(0, 256, (30, side, side, 1)).astype(np.uint8)
    part = LabelledImages(pixels, np.arange(30) % 10)
    return ImageClasses("digits", part, part)


def test_the_same_images_at_every_resolution():
    config = dataclasses.replace(PRESETS["smoke"], num_train=20, num_test=10)
    problems = {side: problem_at(config, images_of(4), side, 2) for side in (2, 4, 8)}
    for side, problem in problems.items():
        assert problem.train_inputs.shape == (2, 20, side**2)
        norms = jnp.sum(problem.train_inputs[0] ** 2, axis=1)
        assert jnp.mean(norms) == pytest.approx(config.squared_norm, rel=1e-5)
        np.testing.assert_array_equal(problem.train_inputs[0], problem.train_inputs[1])
        np.testing.assert_array_equal(problem.train_labels, problems[4].train_labels)
    grams = [problems[side].test_inputs @ problems[side].test_inputs.T for side in (4, 8)]
    np.testing.assert_allclose(*grams, rtol=1e-4)


def test_only_the_first_trial_depends_on_the_sizes():
    rule = CPU.rule
    few, many = (rule_for(rule, (n, 16, 16, 10), "standard") for n in (49, 784))
    assert few.first_rate == pytest.approx(2 * many.first_rate)
    assert many == rule


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    pytest.importorskip("sklearn")
    return reproduce(EXPERIMENT, "smoke", tmp_path_factory.mktemp("transition"))


def test_the_smallest_size(smoke):
    config = PRESETS["smoke"]
    rows = [json.loads(line) for line in (smoke.folder / "results.jsonl").open()]
    ensembles = [row for row in rows if row["kind"] == "ensemble"]
    assert len(ensembles) == EXPERIMENT.num_units(config, None) == 12
    assert len(rows) - len(ensembles) == 3 * sum(config.members)
    for row in rows:
        if row["kind"] == "member":
            ratio = row["trace_at_minimum"] / row["trace_start"] - 1
            assert row["trace_ratio"] == pytest.approx(ratio, rel=1e-4, abs=1e-5)
            assert 1 <= row["rank_at_minimum"] <= config.num_ntk * 10
    figures = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert figures == {"transition_layers3.png", "trace.png", "ntk.png"}
    claims = [claim for claim in smoke.judged if isinstance(claim, Claim)]
    assert {claim.verdict for claim in claims} == {"set-up short of the paper"}
    sweep = Sweep(smoke.folder, config)
    EXPERIMENT.measure(config, sweep, None)
    assert sweep.num_computed == 0
    again = judged(EXPERIMENT, "smoke", config, sweep)
    assert claims_json(again) == claims_json(smoke.judged)


def test_presets_survive_json():
    for config in PRESETS.values():
        values = json.loads(json.dumps(config_to_json(config)))
        assert decode(TransitionConfig, values, source="test") == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputSizes(images="digits", sides=(8, 4)), "sides: expected at least two"),
        (lambda: InputSizes(images="digits", sides=(4, 8), ntk_sides=(2,)), "ntk_sides: expected"),
        (lambda: TransitionConfig(widths=(8, 16), members=(3,)), "members: expected two or more"),
        (lambda: problem_at(PRESETS["smoke"], images_of(4), 3, 2), "side: expected a divisor"),
    ],
)
def test_bad_configs(make, message):
    with pytest.raises(ValueError, match=message):
        make()
