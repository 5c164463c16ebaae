"""What Spectral Lens claims of its chain of variants (section 4; D; G.2; G.3), judged by a sweep.

Each change is judged at the lowest loss that every run on both of its sides meets, not at the end
of training: the first variant falls so far behind that at its lowest loss the others have hardly
begun. The seeds are the unit: at each loss, their scatter is pooled over the variants that meet it
and have several, since it is of one kind; a variant with a single seed is known as well as that
scatter says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    Bounds,
    Groups,
    Uncertain,
    contrast,
    jackknifed,
    scatter,
    sum_of,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens.run_config import MLP_OUTPUT, OUTPUT
from lnpjax.experiments.spectral_lens_chain.config import CHAIN, ChainConfig
from lnpjax.experiments.spectral_lens_chain.results import (
    at_target,
    before,
    changes,
    common_target,
    log_throughput,
    log_tokens,
    step_weights,
    targets_of_changes,
)
from lnpjax.models import LSWA_ADAM

ACTIVATION_LED = ("RoPE", "Untied", "FlexWin", "SoftCap")
GRADIENT_LED = ("FixedWin", "VTE")
THROUGHPUT = ("SparseV", "TruncRoPE", "FP8Head")
PREFIX = ("RoPE", "Muon", "Untied")
TRUNK = CHAIN[CHAIN.index("U-Net") :]
LEAST_FREEDOM = 3
POSITIVE = Bounds(low=0.0)


class Numbers(NamedTuple):
    """Numbers at one loss, by variant and seed, of the variants all of whose runs met it.

    Attributes:
        tokens: logarithm of the tokens to the loss.
        activations: head exponent of the last layer's activations.
        gradients: that of the per-sample gradients of its attention output.
        outputs: that of the weights of the attention output.
        mlp_outputs: that of the weights of the feed-forward's output.
    """

    tokens: Groups
    activations: Groups
    gradients: Groups
    outputs: Groups
    mlp_outputs: Groups


class Chain(NamedTuple):
    """What the claims are made of.

    Attributes:
        targets: the loss of the change to each variant (of LSWA-Adam, from LSWA).
        at: the numbers at each of these losses.
        common: at the lowest loss that all variants met but the first.
    """

    targets: Mapping[str, float]
    at: Mapping[float, Numbers]
    common: Numbers

    def by_target(self, weights: Mapping[str, float]) -> list[tuple[Numbers, dict[str, float]]]:
        """Return the numbers at each loss, with the weights of the changes judged at it."""
        losses = dict.fromkeys(self.targets[name] for name in weights)
        return [
            (self.at[loss], {name: w for name, w in weights.items() if self.targets[name] == loss})
            for loss in losses
        ]

    def change(self, quantity: str, weights: Mapping[str, float]) -> Uncertain:
        """Return a weighted sum of changes of a quantity; those at two losses are independent."""
        return sum_of(
            [
                contrast(getattr(numbers, quantity), step_weights(members))
                for numbers, members in self.by_target(weights)
            ]
        )


def judge(config: ChainConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    targets, common = targets_of_changes(config, sweep), common_target(config, sweep)
    missing = [name for name in (*CHAIN, LSWA_ADAM) if name not in config.variants]
    apart = [name for name, target in targets.items() if target is None]
    needs = [
        Need("all variants", not missing, f"without {', '.join(missing)}" if missing else ""),
        Need("a loss that both sides of each change meet", not apart, ", ".join(apart)),
        Need("a loss that all but the first variant meet", common is not None, str(common)),
    ]
    if not all(need.met for need in needs):
        return [claim_without(needs)]
    chain = chain_of(config, sweep)
    freedom = min(scatter(numbers.tokens)[1] for numbers in chain.at.values())
    what = f"a scatter among seeds with {LEAST_FREEDOM} degrees of freedom"
    needs.append(Need(what, freedom >= LEAST_FREEDOM, str(freedom)))
    return [
        learning_changes_save_tokens(chain, needs),
        others_save_fewer(chain, needs),
        heads_move(chain, needs),
        gradients_move_more(chain, needs),
        muon_has_sharper_heads(chain, needs),
        prefix_moves_most(chain, needs),
        mlp_outputs_diverge(chain, needs),
        _gains(config, sweep, chain),
    ]


def chain_of(config: ChainConfig, sweep: Sweep) -> Chain:
    """Read the numbers of all claims off the sweep; every change must have a target."""
    targets = {
        name: target
        for name, target in targets_of_changes(config, sweep).items()
        if target is not None
    }
    common = common_target(config, sweep)
    assert common is not None
    at = {target: numbers_of(config, sweep, target) for target in {*targets.values(), common}}
    return Chain(targets, at, at[common])


def numbers_of(config: ChainConfig, sweep: Sweep, target: float) -> Numbers:
    """Read the numbers at one loss off the sweep."""
    parts = (
        ("activations", ""),
        ("gradients", OUTPUT),
        ("weights", OUTPUT),
        ("weights", MLP_OUTPUT),
    )
    heads = [
        at_target(config, sweep, target, of=of, part=part, quantity="alpha_head")
        for of, part in parts
    ]
    return Numbers(log_tokens(config, sweep, target), *heads)


def claim_without(needs: list[Need]) -> Claim:
    """Stand in for all claims where nothing can be compared."""
    return Claim(
        source="Fig. 3",
        statement="Changes of architecture fall into a taxonomy of gains and spectra.",
        quantity="gains and exponents at one loss",
        findings=[],
        needs=needs,
    )


def learning_changes_save_tokens(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether each change that the paper calls led by learning needs fewer tokens."""
    names = sorted((*ACTIVATION_LED, *GRADIENT_LED), key=CHAIN.index)
    return Claim(
        source="section 4",
        statement="Changes that are led by activations (RoPE, Untied, FlexWin, SoftCap) or by "
        "gradients (FixedWin, VTE) reach the target loss with fewer tokens.",
        quantity="log(T(before) / T(after))",
        findings=[Finding(name, chain.change("tokens", {name: -1.0}), POSITIVE) for name in names],
        needs=needs,
    )


def others_save_fewer(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether changes of execution save fewer tokens than those of learning."""
    learning = (*ACTIVATION_LED, *GRADIENT_LED)
    weights = dict.fromkeys(learning, -1 / len(learning)) | dict.fromkeys(
        THROUGHPUT, 1 / len(THROUGHPUT)
    )
    return Claim(
        source="section 4",
        statement="SparseV, TruncRoPE and FP8Head help execution and not learning.",
        quantity="mean log(T(before) / T(after)) of changes led by learning, less that of these",
        findings=[Finding("", chain.change("tokens", weights), POSITIVE)],
        needs=needs,
    )


def heads_move(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether activations' heads move more where the paper says that they lead."""
    return Claim(
        source="section 4",
        statement="Changes led by activations displace the head of the activations' spectrum; "
        "those of execution displace it less.",
        quantity="mean absolute change of the head exponent at the target: led by activations less "
        "execution",
        findings=[_moves_more(chain, ACTIVATION_LED, THROUGHPUT)],
        needs=needs,
        note="Absolute changes of noise are above zero on both sides.",
    )


def gradients_move_more(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether gradients move more than activations in the changes that they lead."""
    return Claim(
        source="section 4",
        statement="FixedWin and VTE move the gradients' spectrum more than the activations'.",
        quantity="mean absolute change of the head exponent at the target, in standard deviations "
        "among seeds: of gradients less of activations",
        findings=[Finding("", _in_units(chain, GRADIENT_LED), POSITIVE)],
        needs=needs,
    )


def muon_has_sharper_heads(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether Muon makes steeper heads than Adam at equal loss."""
    return Claim(
        source="section 3; D",
        statement="Muon concentrates the head of the activations' spectrum more than Adam.",
        quantity="head exponent of LSWA at the target, less that of LSWA-Adam",
        findings=[Finding("", chain.change("activations", {LSWA_ADAM: -1.0}), POSITIVE)],
        needs=needs,
    )


def prefix_moves_most(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether the first variants contain the largest shifts."""
    return Claim(
        source="G.2; Figs. 13 to 15",
        statement="The prefix (Baseline to Untied) contains the largest geometric shifts.",
        quantity="mean absolute change of the activations' head exponent at the target: prefix "
        "less U-Net and later",
        findings=[_moves_more(chain, PREFIX, TRUNK)],
        needs=needs,
        note="Absolute changes of noise are above zero on both sides.",
    )


def mlp_outputs_diverge(chain: Chain, needs: list[Need]) -> Claim:
    """Judge whether weights of the feed-forward's output differ more between variants."""
    weights = (chain.common.outputs, chain.common.mlp_outputs)
    names = [name for name in CHAIN if name in weights[0]]
    pairs = np.array([[groups[name].mean() for name in names] for groups in weights])

    def log_ratio(members: np.ndarray) -> float:
        attention, feed_forward = np.std(pairs[:, members], axis=1, ddof=1)
        return float(np.log(feed_forward / attention)) if attention > 0 else np.nan

    estimate = jackknifed(len(names), log_ratio) if np.all(np.isfinite(pairs)) else UNKNOWN
    return Claim(
        source="G.3; Fig. 17",
        statement="Weights of the MLP output diverge more between variants than those of the "
        "attention output.",
        quantity="log of the ratio of standard deviations, over variants, of the weights' head "
        "exponents, at the lowest loss of all but the first; error by the jackknife over variants",
        findings=[Finding("", estimate, POSITIVE)],
        needs=needs,
    )


def _moves_more(chain: Chain, first: Sequence[str], second: Sequence[str]) -> Finding:
    less = {name: -weight for name, weight in _absolute(chain, "activations", second).items()}
    weights = _absolute(chain, "activations", first) | less
    return Finding("", chain.change("activations", weights), POSITIVE)


def _absolute(chain: Chain, quantity: str, names: Sequence[str]) -> dict[str, float]:
    """Return the weights of the mean absolute change, by the signs that were found."""
    return {
        name: float(np.sign(chain.change(quantity, {name: 1.0}).value)) / len(names)
        for name in names
    }


def _in_units(chain: Chain, names: Sequence[str]) -> Uncertain:
    gradients, activations = (_size(chain, name, names) for name in ("gradients", "activations"))
    error = float(np.hypot(gradients.error, activations.error))
    # Each of the two units is itself uncertain, by a part 1 / sqrt(2 df).
    error = float(
        np.hypot(error, np.hypot(gradients.value, activations.value) / (2 * gradients.df) ** 0.5)
    )
    return Uncertain(gradients.value - activations.value, error, gradients.df)


def _size(chain: Chain, quantity: str, names: Sequence[str]) -> Uncertain:
    """Return the mean absolute change, in standard deviations among seeds."""
    sizes = []
    for numbers, weights in chain.by_target(_absolute(chain, quantity, names)):
        groups = getattr(numbers, quantity)
        unit, freedom = scatter(groups)
        moved = contrast(groups, step_weights(weights))
        sizes.append(Uncertain(moved.value / unit, moved.error / unit, freedom))
    return sum_of(sizes)


def _gains(config: ChainConfig, sweep: Sweep, chain: Chain) -> Observation:
    speeds = log_throughput(config, sweep)
    seen = [
        f"{name} at {chain.targets[name]:g} "
        f"{np.expm1(chain.change('tokens', {name: -1.0}).value):+.0%} / "
        f"{np.expm1(speeds[name].mean() - speeds[before(name)].mean()):+.0%}"
        for name in changes(config)
    ]
    return Observation(
        source="Fig. 3a",
        statement="Each change has a gain in tokens and one in throughput.",
        seen=f"at a loss of both sides (tokens / throughput on this machine): {', '.join(seen)}",
    )
