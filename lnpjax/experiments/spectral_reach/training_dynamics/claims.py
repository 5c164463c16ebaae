"""What Spectral Reach says of spectral position along a run, judged (footnote 3, A.1, A.4).

Seeds are the unit. Over sizes, means are taken of the means of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    NUM_DRAWS,
    Bounds,
    Uncertain,
    mean_of,
    mean_of_means,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import trained_well
from lnpjax.experiments.spectral_reach.runs import Runs, runs_of
from lnpjax.experiments.spectral_reach.training_dynamics import results

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.training_dynamics.config import DynamicsConfig

Families = dict[str, list[Runs]]
POSITIVE, NEGATIVE = Bounds(low=0.0), Bounds(high=0.0)
OCCASIONALLY = Bounds(low=0.05)
"""At least one run in twenty."""
MOST = Bounds(low=0.5)
CHEAP = Bounds(high=0.01)
"""Of ln of the test loss: one per cent."""
AS_ROOT = Bounds(-0.6, -0.4)
TO_A_MILLIONTH = Bounds(high=-6.0)
LEAST_MODELS = 4


def judge(config: DynamicsConfig, sweep: Sweep) -> list[Claim | Observation]:
    """Judge what the paper says of single runs, and check its equations where they are exact.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    families = runs_of(config.runs.recipe, sweep)
    needs = trained_well([size for sizes in families.values() for size in sizes])
    return [
        falls_together(families, needs),
        falls_of_its_own(families, needs),
        drops(families, needs),
        cheap(families, needs),
        better_than_control(families, needs),
        *(most_pairs(config, sweep, name) for name in ("share", "weighted")),
        *(closed_form(config, sweep, name) for name in EQUATIONS),
        limit(config, sweep),
        *observed(families),
    ]


def over_sizes(
    families: Families,
    statistic: Callable[[Runs], Float[np.ndarray, " seeds"]],
    region: Bounds,
) -> list[Finding]:
    """Return the mean over the sizes of each data set."""
    return [
        Finding(data, mean_of_means([statistic(size) for size in sizes]), region)
        for data, sizes in families.items()
    ]


def falls_together(families: Families, needs: list[Need]) -> Claim:
    """Judge whether a run's loss falls most where its chi_pos does."""
    return Claim(
        source="4.1, ours",
        statement="Along a run, the loss falls most where chi_pos falls most.",
        quantity="correlation over windows of the slopes of ln loss and of ln chi_pos in ln step, "
        "mean over sizes and seeds",
        findings=over_sizes(families, results.own_correlations, POSITIVE),
        needs=needs,
    )


def falls_of_its_own(families: Families, needs: list[Need]) -> Claim:
    """Judge whether the two belong together beyond the course that all runs share."""
    return Claim(
        source="beyond the paper",
        statement="The loss of a run goes with its own chi_pos, more than with that of another "
        "seed.",
        quantity="that correlation, less the mean of those with chi_pos of other seeds",
        findings=over_sizes(families, results.own_less_others, POSITIVE),
        needs=needs,
        note="All seeds see the same batches, and fall at first and level off later",
    )


def drops(families: Families, needs: list[Need]) -> Claim:
    """Judge whether there are sudden drops beyond what the rule sees in smooth courses."""

    def beyond(sizes: Sequence[Runs]) -> Uncertain:
        seen = np.concatenate([results.runs_with_drops(size) for size in sizes])
        alarms = results.false_alarms(sizes[0])  # all sizes have the same windows
        hits, misses = int(seen.sum()), int((~seen).sum())
        # Jeffreys' interval of a share, which knows that none of a few may be some of many.
        draws = np.random.default_rng(0).beta(hits + 0.5, misses + 0.5, NUM_DRAWS)
        return Uncertain(float(seen.mean()) - alarms, draws=draws - alarms)

    return Claim(
        source="footnote 3",
        statement="Occasionally chi_pos drops suddenly, beyond its smooth decrease.",
        quantity="share of runs with such a drop from a window to the next, less that of smooth "
        "courses with noise",
        findings=[Finding(data, beyond(sizes), OCCASIONALLY) for data, sizes in families.items()],
        needs=needs,
    )


def cheap(families: Families, needs: list[Need]) -> Claim:
    """Judge whether stopping when chi_pos has flattened costs little."""
    return Claim(
        source="beyond the paper",
        statement="A run that is stopped when its chi_pos has flattened gives up less than 1 % of "
        "its loss.",
        quantity="ln of the test loss then over that at the end, mean over sizes and seeds",
        findings=[
            Finding(data, mean_of_means(results.stopped(sizes).lost), CHEAP)
            for data, sizes in families.items()
        ],
        needs=needs,
    )


def better_than_control(families: Families, needs: list[Need]) -> Claim:
    """Judge whether chi_pos says which runs to stop early."""

    def difference(sizes: Sequence[Runs]) -> Uncertain:
        found = results.stopped(sizes)
        pairs = zip(found.lost, found.control, strict=True)
        return mean_of_means([lost - control for lost, control in pairs])

    return Claim(
        source="beyond the paper",
        statement="Stopping when chi_pos has flattened gives up less than stopping all runs after "
        "the same share of their steps.",
        quantity="difference of ln test losses, mean over sizes and seeds",
        findings=[Finding(data, difference(sizes), NEGATIVE) for data, sizes in families.items()],
        needs=needs,
    )


def most_pairs(config: DynamicsConfig, sweep: Sweep, name: str) -> Claim:
    """Judge whether most mode pairs contribute positively, by number or by size."""
    how = {"share": "by number", "weighted": "by size"}[name]
    shares = results.pair_column(config, sweep, name).mean(axis=1)
    return Claim(
        source="A.1, eq. 25",
        statement=f"Most mode pairs across two batches contribute positively to chi_pos, {how}.",
        quantity="share of positive pairs of a small dense network, mean over moments of its run",
        findings=[Finding("", mean_of(shares), MOST)],
        needs=enough(config.num_seeds),
    )


EQUATIONS = {
    "chi_net": ("4.3, A.4", "With frozen features chi_net is constant: Tr K / n at all times."),
    "chi_pos": ("eq. 42", "With frozen features chi_pos at all times is that of the residual."),
    "change": ("eq. 40", "A step changes the loss as stated, at all times with the residual."),
}


def closed_form(config: DynamicsConfig, sweep: Sweep, name: str) -> Claim:
    """Check a closed form along the training of random feature models."""
    source, statement = EQUATIONS[name]
    return Claim(
        source=source,
        statement=statement,
        quantity="log10 of the largest relative deviation along a run, mean over seeds",
        findings=[
            Finding(
                f"beta {beta:g}",
                mean_of(results.deviations(config, sweep, beta, name)),
                TO_A_MILLIONTH,
            )
            for beta in config.features.betas
        ],
        needs=enough(config.num_seeds),
    )


def limit(config: DynamicsConfig, sweep: Sweep) -> Claim:
    """Check that the kernel of many features tends to the one of infinitely many."""
    return Claim(
        source="eq. 38",
        statement="The kernel of random features tends to that of infinite width, as 1 / sqrt(m).",
        quantity="exponent in m of its relative distance, mean over seeds",
        findings=[
            Finding(
                f"beta {beta:g}", mean_of(results.width_exponents(config, sweep, beta)), AS_ROOT
            )
            for beta in config.features.betas
        ],
        needs=enough(config.num_kernels),
    )


def enough(count: int) -> list[Need]:
    """What models whose kernel is known need."""
    return [Need.at_least(LEAST_MODELS, "seeds", count)]


def observed(families: Families) -> list[Observation]:
    """Tell where drops are and how often none is taken for one, and what stopping saves."""

    def alarms(data: str, sizes: Sequence[Runs]) -> str:
        parts = [
            f"{size.name} {int(results.runs_with_drops(size).sum())} of {size.num_seeds}"
            for size in sizes
        ]
        rate = results.false_alarms(sizes[0])
        return f"{data}: {', '.join(parts)} (false alarms {rate:.1%})"

    def savings(data: str, sizes: Sequence[Runs]) -> str:
        found = results.stopped(sizes)
        parts = [
            f"{size.name} {share.mean():.0%} for {lost.mean():.1%}"
            for size, share, lost in zip(sizes, found.shares, found.lost, strict=True)
        ]
        control = np.mean(np.concatenate(found.control))
        mean = np.mean(np.concatenate(found.shares))
        return f"{data}: {', '.join(parts)} (control {mean:.0%} for {control:.1%})"

    return [
        Observation(
            source="footnote 3",
            statement="Runs of each size with a sudden drop.",
            seen="; ".join(alarms(*family) for family in families.items()),
        ),
        Observation(
            source="beyond the paper",
            statement="Stopping when chi_pos has flattened: steps that are taken, and loss that is "
            "given up.",
            seen="; ".join(savings(*family) for family in families.items()),
        ),
    ]
