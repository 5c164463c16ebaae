"""What Spectral Lens claims of its chain of variants (section 4; D; G.2; G.3), judged by a sweep.

All are at the lowest loss that every run meets, not at the end of training. The seeds are the unit:
their scatter is pooled over the variants that have several, since it is of one kind; a variant with
a single seed is known as well as that scatter says.
"""

from __future__ import annotations

from collections.abc import Sequence
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
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens.run_config import MLP_OUTPUT, OUTPUT
from lnpjax.experiments.spectral_lens_chain.config import CHAIN, ChainConfig
from lnpjax.experiments.spectral_lens_chain.results import (
    at_target,
    common_target,
    log_throughput,
    log_tokens,
    step_weights,
    steps,
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
    """What the claims are made of: a number by variant and seed, each at the common target.

    Attributes:
        tokens: logarithm of the tokens to the target.
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


def judge(config: ChainConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    target = common_target(config, sweep)
    missing = [name for name in (*CHAIN, LSWA_ADAM) if name not in config.variants]
    needs = [
        Need("all variants", not missing, f"without {', '.join(missing)}" if missing else ""),
        Need("a target loss that all runs meet", target is not None, str(target)),
    ]
    if missing or target is None:
        return [claim_without(needs)]
    numbers = numbers_of(config, sweep, target)
    freedom = scatter(numbers.tokens)[1]
    what = f"a scatter among seeds with {LEAST_FREEDOM} degrees of freedom"
    needs.append(Need(what, freedom >= LEAST_FREEDOM, str(freedom)))
    return [
        learning_changes_save_tokens(numbers, needs),
        others_save_fewer(numbers, needs),
        heads_move(numbers, needs),
        gradients_move_more(numbers, needs),
        muon_has_sharper_heads(numbers, needs),
        prefix_moves_most(numbers, needs),
        mlp_outputs_diverge(numbers, needs),
        _gains(config, sweep, numbers, target),
    ]


def numbers_of(config: ChainConfig, sweep: Sweep, target: float) -> Numbers:
    """Read the numbers of all claims off the sweep."""
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


def learning_changes_save_tokens(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether each change that the paper calls led by learning needs fewer tokens."""
    names = sorted((*ACTIVATION_LED, *GRADIENT_LED), key=CHAIN.index)
    return Claim(
        source="section 4",
        statement="Changes that are led by activations (RoPE, Untied, FlexWin, SoftCap) or by "
        "gradients (FixedWin, VTE) reach the target loss with fewer tokens.",
        quantity="log(T(before) / T(after))",
        findings=[
            Finding(name, contrast(numbers.tokens, step_weights([name], [-1.0])), POSITIVE)
            for name in names
        ],
        needs=needs,
    )


def others_save_fewer(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether changes of execution save fewer tokens than those of learning."""
    learning = (*ACTIVATION_LED, *GRADIENT_LED)
    weights = _difference(
        step_weights(learning, [-1.0] * len(learning)),
        step_weights(THROUGHPUT, [-1.0] * len(THROUGHPUT)),
    )
    return Claim(
        source="section 4",
        statement="SparseV, TruncRoPE and FP8Head help execution and not learning.",
        quantity="mean log(T(before) / T(after)) of changes led by learning, less that of these",
        findings=[Finding("", contrast(numbers.tokens, weights), POSITIVE)],
        needs=needs,
    )


def heads_move(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether activations' heads move more where the paper says that they lead."""
    return Claim(
        source="section 4",
        statement="Changes led by activations displace the head of the activations' spectrum; "
        "those of execution displace it less.",
        quantity="mean absolute change of the head exponent at the target: led by activations less "
        "execution",
        findings=[_moves_more(numbers.activations, ACTIVATION_LED, THROUGHPUT)],
        needs=needs,
        note="Absolute changes of noise are above zero on both sides.",
    )


def gradients_move_more(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether gradients move more than activations in the changes that they lead."""
    return Claim(
        source="section 4",
        statement="FixedWin and VTE move the gradients' spectrum more than the activations'.",
        quantity="mean absolute change of the head exponent at the target, in standard deviations "
        "among seeds: of gradients less of activations",
        findings=[Finding("", _in_units(numbers, GRADIENT_LED), POSITIVE)],
        needs=needs,
    )


def muon_has_sharper_heads(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether Muon makes steeper heads than Adam at equal loss."""
    weights = {"LSWA": 1.0, LSWA_ADAM: -1.0}
    return Claim(
        source="section 3; D",
        statement="Muon concentrates the head of the activations' spectrum more than Adam.",
        quantity="head exponent of LSWA at the target, less that of LSWA-Adam",
        findings=[Finding("", contrast(numbers.activations, weights), POSITIVE)],
        needs=needs,
    )


def prefix_moves_most(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether the first variants contain the largest shifts."""
    return Claim(
        source="G.2; Figs. 13 to 15",
        statement="The prefix (Baseline to Untied) contains the largest geometric shifts.",
        quantity="mean absolute change of the activations' head exponent at the target: prefix "
        "less U-Net and later",
        findings=[_moves_more(numbers.activations, PREFIX, TRUNK)],
        needs=needs,
        note="Absolute changes of noise are above zero on both sides.",
    )


def mlp_outputs_diverge(numbers: Numbers, needs: list[Need]) -> Claim:
    """Judge whether weights of the feed-forward's output differ more between variants."""
    pairs = np.array(
        [[groups[name].mean() for name in CHAIN] for groups in numbers[3:]]  # of the weights
    )

    def log_ratio(members: np.ndarray) -> float:
        attention, feed_forward = np.std(pairs[:, members], axis=1, ddof=1)
        return float(np.log(feed_forward / attention)) if attention > 0 else np.nan

    estimate = jackknifed(len(CHAIN), log_ratio) if np.all(np.isfinite(pairs)) else UNKNOWN
    return Claim(
        source="G.3; Fig. 17",
        statement="Weights of the MLP output diverge more between variants than those of the "
        "attention output.",
        quantity="log of the ratio of standard deviations, over variants, of the weights' head "
        "exponents at the target; error by the jackknife over variants",
        findings=[Finding("", estimate, POSITIVE)],
        needs=needs,
    )


def _moves_more(groups: Groups, first: Sequence[str], second: Sequence[str]) -> Finding:
    weights = _difference(_absolute(groups, first), _absolute(groups, second))
    return Finding("", contrast(groups, weights), POSITIVE)


def _absolute(groups: Groups, names: Sequence[str]) -> dict[str, float]:
    """Return the weights of the mean absolute change, by the signs that were found."""
    signs = [float(np.sign(contrast(groups, step_weights([name])).value)) for name in names]
    return step_weights(names, signs)


def _in_units(numbers: Numbers, names: Sequence[str]) -> Uncertain:
    sizes = []
    for groups in (numbers.gradients, numbers.activations):
        unit, freedom = scatter(groups)
        size = contrast(groups, _absolute(groups, names))
        sizes.append(Uncertain(size.value / unit, size.error / unit, freedom))
    gradients, activations = sizes
    error = float(np.hypot(gradients.error, activations.error))
    # Each of the two units is itself uncertain, by a part 1 / sqrt(2 df).
    error = float(
        np.hypot(error, np.hypot(gradients.value, activations.value) / (2 * gradients.df) ** 0.5)
    )
    return Uncertain(gradients.value - activations.value, error, gradients.df)


def _difference(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {
        name: first.get(name, 0.0) - second.get(name, 0.0)
        for name in dict.fromkeys((*first, *second))
    }


def _gains(config: ChainConfig, sweep: Sweep, numbers: Numbers, target: float) -> Observation:
    speeds = log_throughput(config, sweep)
    seen = [
        f"{after} {np.expm1(numbers.tokens[before].mean() - numbers.tokens[after].mean()):+.0%} / "
        f"{np.expm1(speeds[after].mean() - speeds[before].mean()):+.0%}"
        for before, after in steps(config)
    ]
    return Observation(
        source="Fig. 3a",
        statement="Each change has a gain in tokens and one in throughput.",
        seen=f"at a loss of {target:g} (tokens / throughput on this machine): {', '.join(seen)}",
    )
