"""What appendix D of Spectral Lens says of updates under Muon and Adam, judged by a sweep.

The seeds are the unit: each has a network, a course of training and a pool of sequences of its own.
A number of a seed is the mean over the four matrices, at the last state. All claims are judged on
the runs that Muon trained and on those that Adam trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_muon_adam.config import TRAINED_BY
from lnpjax.experiments.spectral_lens_muon_adam.results import (
    Updates,
    all_updates,
    critical_batch_size,
    log_slopes,
)
from lnpjax.experiments.spectral_lens_muon_adam.updates import RULES

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_muon_adam.config import MuonAdamConfig

LEAST_SEEDS = 4
LEAST_FACTOR = 32
POSITIVE = Bounds(low=0.0)
ROOT = Bounds(-0.6, -0.4)
NEARS = Bounds(high=-0.1)
UNCHANGED = Bounds(-0.1, 0.1)

World = Mapping[str, Mapping[str, Updates]]
"""What was measured, by who trained the network and by rule."""


def judge(config: MuonAdamConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the appendix.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    world = {name: all_updates(config, sweep, name) for name in TRAINED_BY}
    factor = config.batch_sizes[-1] / config.batch_sizes[0]
    seeds = len(config.seeds)
    needs = [
        Need.at_least(LEAST_SEEDS, "seeds", seeds),
        Need(f"batch sizes over a factor of {LEAST_FACTOR}", factor >= LEAST_FACTOR, f"{factor:g}"),
    ]
    return [
        noise_falls_as_root(world, config.batch_sizes, needs),
        small_batches_are_noisy(world, needs),
        muon_keeps_noise(world, needs),
        converges_to_the_polar_factor(world, config.batch_sizes, needs),
        adam_keeps_the_spectrum(world, needs),
        muon_evens_the_spectrum(world, needs),
        muon_depends_more_on_batch_size(world, needs),
        mean_turns_more(world, needs),
        _critical(config, world),
        _newton_schulz(world),
    ]


def noise_falls_as_root(world: World, batch_sizes: tuple[int, ...], needs: list[Need]) -> Claim:
    """Judge the power of the batch size that noise falls with."""
    return Claim(
        source="D",
        statement="The singular values of the gradient's noise scale as 1 / sqrt(B).",
        quantity="slope of the log of the noise's largest singular value on log B",
        findings=_findings(
            world,
            lambda rules: log_slopes(batch_sizes, rules["gradient"].largest_noise).mean(axis=1),
            ROOT,
        ),
        needs=needs,
        note="Copies of the paper without its root signs read 1 / B, which the squares do.",
    )


def small_batches_are_noisy(world: World, needs: list[Need]) -> Claim:
    """Judge whether noise has most of the gradient of a small batch."""
    return Claim(
        source="D",
        statement="At small batch size the gradient contains substantial mass in noise directions.",
        quantity="share of the noise in the squared norm of the smallest batch's gradient",
        findings=_findings(world, lambda rules: _smallest(rules["gradient"]), Bounds(low=0.5)),
        needs=needs,
    )


def muon_keeps_noise(world: World, needs: list[Need]) -> Claim:
    """Judge whether orthogonalising raises the share of noise."""
    return Claim(
        source="D",
        statement="Orthogonalising treats noise directions as equivalent to signal directions "
        "instead of weighting them down by their amplitude.",
        quantity="share of the noise in Muon's update, less that in the gradient, at the smallest "
        "batch",
        findings=_findings(
            world, lambda rules: _smallest(rules["Muon"]) - _smallest(rules["gradient"]), POSITIVE
        ),
        needs=needs,
    )


def converges_to_the_polar_factor(
    world: World, batch_sizes: tuple[int, ...], needs: list[Need]
) -> Claim:
    """Judge whether the polar factor of a batch nears that of the population."""
    return Claim(
        source="D",
        statement="As B grows, the polar factor of a batch's gradient converges toward that of the "
        "population gradient.",
        quantity="slope of the log of their relative distance on log B, between the two largest "
        "batches; it tends to -1/2",
        findings=_findings(
            world,
            lambda rules: log_slopes(batch_sizes[-2:], rules["polar factor"].distance[:, -2:]).mean(
                axis=1
            ),
            NEARS,
        ),
        needs=needs,
    )


def adam_keeps_the_spectrum(world: World, needs: list[Need]) -> Claim:
    """Judge whether Adam leaves the spectrum of the gradient as it is."""
    return Claim(
        source="D",
        statement="Adam does not redistribute mass between singular directions at all.",
        quantity="log of the effective rank of its update over that of the gradient, at the "
        "largest batch",
        findings=_findings(world, lambda rules: _log_rank(rules, "Adam"), UNCHANGED),
        needs=needs,
    )


def muon_evens_the_spectrum(world: World, needs: list[Need]) -> Claim:
    """Judge whether Muon evens singular values more than Adam does."""
    return Claim(
        source="D",
        statement="Muon equalises singular directions, which Adam does not.",
        quantity="log of the effective rank of Muon's update over that of Adam's, at the largest "
        "batch",
        findings=_findings(
            world, lambda rules: _log_rank(rules, "Muon") - _log_rank(rules, "Adam"), POSITIVE
        ),
        needs=needs,
    )


def muon_depends_more_on_batch_size(world: World, needs: list[Need]) -> Claim:
    """Judge whose update depends more on the batch size, batch by batch."""

    def span(updates: Updates) -> Float[np.ndarray, " seeds"]:
        return (updates.alignment[:, -1] - updates.alignment[:, 0]).mean(axis=1)

    return Claim(
        source="D",
        statement="Adam's update direction depends less sharply on B than Muon's.",
        quantity="by how much the cosine of an update with that of the population's gradient rises "
        "from the smallest to the largest batch: of Muon less of Adam",
        findings=_findings(
            world, lambda rules: span(rules["Muon"]) - span(rules["Adam"]), POSITIVE
        ),
        needs=needs,
    )


def mean_turns_more(world: World, needs: list[Need]) -> Claim:
    """Judge whose mean update turns more with the batch size."""

    def turn(updates: Updates) -> Float[np.ndarray, " seeds"]:
        return 1 - updates.mean_alignment[:, 0]

    return Claim(
        source="D",
        statement="So does the direction of the mean over batches (another reading of the same).",
        quantity="one less the cosine of the mean update of the smallest batches with that of the "
        "population's gradient: of Muon less of Adam",
        findings=_findings(
            world, lambda rules: turn(rules["Muon"]) - turn(rules["Adam"]), POSITIVE
        ),
        needs=needs,
    )


def _findings(
    world: World,
    number: Callable[[Mapping[str, Updates]], Float[np.ndarray, " seeds"]],
    region: Bounds,
    what: str = "",
) -> list[Finding]:
    """Return a finding for every optimizer that trained networks."""
    return [
        Finding(", ".join(filter(None, (f"trained by {name}", what))), mean_of(number(rules)),
                region)
        for name, rules in world.items()
    ]  # fmt: skip


def _smallest(updates: Updates) -> Float[np.ndarray, " seeds"]:
    """Return the share of noise at the smallest batch."""
    return updates.noise_share[:, 0].mean(axis=1)


def _log_rank(rules: Mapping[str, Updates], rule: str) -> Float[np.ndarray, " seeds"]:
    return np.log(rules[rule].rank[:, -1] / rules["gradient"].rank[:, -1]).mean(axis=1)


def _critical(config: MuonAdamConfig, world: World) -> Observation:
    sizes = config.batch_sizes

    def text(updates: Updates) -> str:
        size = np.median(critical_batch_size(sizes, updates))
        if 0 < size < np.inf:
            return f"{size:.0f}"
        return f"above {sizes[-1]}" if size > 0 else f"below {sizes[0]}"

    seen = (
        f"trained by {name}: {', '.join(f'{rule} {text(rules[rule])}' for rule in RULES)}"
        for name, rules in world.items()
    )
    return Observation(
        source="D",
        statement="Muon admits a substantially larger critical batch size than Adam.",
        seen="sequences at which an update has as much signal as noise, median over seeds; "
        + "; ".join(seen),
    )


def _newton_schulz(world: World) -> Observation:
    gaps = (
        f"trained by {name}: {rules['Muon'].distance[:, -1].mean():.2f} and "
        f"{rules['polar factor'].distance[:, -1].mean():.2f}"
        for name, rules in world.items()
    )
    return Observation(
        source="D",
        statement="Muon's update is the polar factor.",
        seen="relative distance from the population's polar factor at the largest batch, of Muon "
        f"as optax has it and of the batch's exact polar factor; {'; '.join(gaps)}",
    )
