"""What the claims of the Spectral Lens toy rest on; short of it nothing is said about them."""

from __future__ import annotations

from collections.abc import Sequence

from lnpjax.experiments._harness.claims import Need
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.bands import training_counts
from lnpjax.experiments.spectral_lens_toy.config import STAGES, Band, ToyConfig
from lnpjax.experiments.spectral_lens_toy.results import all_met, matched_runs

LEAST_BATCH_SIZES = 4
LEAST_SEEDS = 2
LEAST_STEPS = 1000


def at_target(config: ToyConfig, sweep: Sweep, stage: str) -> list[Need]:
    """Whether the runs of a stage can be compared at one loss, over enough batch sizes."""
    sizes = {run.batch_size for run in matched_runs(config, sweep, stage)}
    what = "batch sizes whose runs all met one target loss"
    return [Need.at_least(LEAST_BATCH_SIZES, what, len(sizes))]


def learned(config: ToyConfig, sweep: Sweep) -> Need:
    """Whether every stage got to a target, with all of its runs."""
    short = [stage for stage in STAGES if all_met(config, sweep, stage) is None]
    return Need("all runs of every stage met a target loss", not short, ", ".join(short))


def seeds(config: ToyConfig) -> Need:
    """Whether there are seeds enough to see what they change."""
    count = len(config.seeds)
    return Need.at_least(LEAST_SEEDS, "seeds", count)


def steps(config: ToyConfig) -> Need:
    """Whether the largest batch was given time to learn."""
    count = config.num_blocks * config.steps_per_block(max(config.batch_sizes))
    return Need.at_least(LEAST_STEPS, "steps at the largest batch", count)


def occur(config: ToyConfig, bands: Sequence[Band]) -> Need:
    """Whether bands were trained on at all."""
    counts = training_counts(config)
    least = min(counts[band] for band in bands)
    what = f"bands with at least {config.least_occurrences} training sequences"
    return Need(what, least >= config.least_occurrences, f"one has {least}")
