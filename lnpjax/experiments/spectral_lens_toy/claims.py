"""What Spectral Lens claims of its toy (section 5; F.3; Figs. 4, 11), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnpjax.comparison import spearman
from lnpjax.experiments._harness.claims import Claim, decide
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.config import STAGES
from lnpjax.experiments.spectral_lens_toy.results import (
    FRACTIONS,
    TRANSITIONS,
    best_run,
    control_jump,
    early_prediction,
    final_by_band,
    matched_runs,
    modes_for_share,
    over_training,
    peak_jumps,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_toy.config import ToyConfig


LEAST_BATCH_SIZES = 4  # fewer that met the target cannot rank anything
NARROW_BANDS = 2


def judge(config: ToyConfig, sweep: Sweep) -> list[Claim]:
    """All claims, in the order of the figures.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    return [
        _early_prediction(sweep),
        *_concentration(config, sweep),
        _final_profile(config, sweep),
        *_matched_spectra(sweep),
        _jumps(config, sweep),
        *_band_sweep(config, sweep),
    ]


def _early_prediction(sweep: Sweep) -> Claim:
    correlations = early_prediction(sweep, "muon")
    at_fifth = correlations[FRACTIONS.index(0.2)]
    batch_sizes = {run.batch_size for run in matched_runs(sweep, "muon")}
    perfect = [
        f"{100 * fraction:g} %"
        for fraction, correlation in zip(FRACTIONS, correlations, strict=True)
        if correlation.rho > 0.999
    ]
    return Claim(
        source="Fig. 4a",
        statement="In the Muon stage, the tail exponent at about 20 % of training ranks the batch "
        "sizes by the tokens that they need: rho = 1.",
        measured=f"rho = {at_fifth.rho:.2f} at 20 % (chance p = {at_fifth.p_value:.2g}, "
        f"{at_fifth.num_runs} runs, {len(batch_sizes)} batch sizes at the target); "
        f"rho = 1 at {', '.join(perfect) if perfect else 'no fraction'}",
        verdict=decide(at_fifth.rho > 0.999, known=len(batch_sizes) >= LEAST_BATCH_SIZES),
        rule="holds if rho > 0.999 at 20 % of each run's own tokens to the target; cannot tell "
        f"with fewer than {LEAST_BATCH_SIZES} batch sizes at the target",
    )


def _concentration(config: ToyConfig, sweep: Sweep) -> list[Claim]:
    curves = {
        stage: np.mean(list(over_training(config, sweep, stage, "H_S").values()), axis=0)
        for stage in STAGES
    }
    ends = [float(curve[-1]) for curve in curves.values()]
    shown = ", ".join(
        f"{stage} {curve[0]:.3f} to {curve[-1]:.3f}" for stage, curve in curves.items()
    )
    return [
        Claim(
            source="Fig. 4b",
            statement="Task-band concentration H_S grows during training in every stage.",
            measured=shown,
            verdict=decide(all(curve[-1] > curve[0] for curve in curves.values())),
            rule="holds if H_S (mean over batch sizes, tracked bands and seeds) is larger at the "
            "end than at step 0 in all four stages",
        ),
        Claim(
            source="Fig. 4b",
            statement="H_S is ordered by stage: Baseline < RoPE < Muon < Untied.",
            measured=" / ".join(f"{end:.3f}" for end in ends) + " at the end",
            verdict=decide(bool(np.all(np.diff(ends) > 0))),
            rule="holds if the mean H_S at the end, after equal tokens, increases with each stage",
        ),
    ]


def _final_profile(config: ToyConfig, sweep: Sweep) -> Claim:
    best = best_run(sweep, "untied")
    counts = []
    for cycle, offset in config.tracked_bands:
        profiles = sweep.arrays(best["unit"])[f"profiles/{cycle}:{offset}"]
        counts.append(
            (modes_for_share(profiles[0]), modes_for_share(profiles[-1]), len(profiles[0]))
        )
    return Claim(
        source="Fig. 4c",
        statement="The final Untied profile concentrates on a few Fourier modes; the initial one "
        "is diffuse.",
        measured=f"batch {best['batch_size']}: half of the energy in "
        + ", ".join(f"{first} then {last} of {modes} modes" for first, last, modes in counts),
        verdict=decide(all(last <= 3 and first >= 2 * last for first, last, _ in counts)),
        rule="holds if, in the Untied run with the smallest final loss and each tracked band, at "
        "most 3 modes hold half of the energy at the end and at least twice as many at step 0",
    )


def _matched_spectra(sweep: Sweep) -> list[Claim]:
    runs = matched_runs(sweep, "untied")
    exponents = np.array([run.exponent for run in runs])
    sizes = np.array([run.batch_size for run in runs], float)
    error = float(np.sqrt(np.mean([run.exponent_error**2 for run in runs]))) if runs else np.nan
    spread = float(np.ptp(exponents)) if runs else np.nan
    known = len(set(sizes)) >= LEAST_BATCH_SIZES
    correlation = spearman(sizes, exponents)
    shown = ", ".join(f"{run.batch_size}: {run.exponent:.2f}" for run in runs)
    rule = f"; cannot tell with fewer than {LEAST_BATCH_SIZES} batch sizes at the target"
    return [
        Claim(
            source="Fig. 11a",
            statement="At matched loss, Untied runs of different batch sizes have different "
            "spectra.",
            measured=f"tail exponents span {spread:.2f}, sampling error {error:.2f} "
            f"({len(runs)} runs)",
            verdict=decide(spread > 5 * error, known=known),
            rule="holds if the exponents at the target span more than 5 times their sampling error "
            "(root mean square over runs of half the difference of two halves of the pool)" + rule,
        ),
        Claim(
            source="Fig. 11a",
            statement="Smaller batches have steeper tails at matched loss.",
            measured=f"rho of batch size and exponent {correlation.rho:.2f} (chance p = "
            f"{correlation.p_value:.2g}); {shown}",
            verdict=decide(correlation.rho <= -0.8, known=known),
            rule="holds if Spearman's rho of batch size and exponent is at most -0.8" + rule,
        ),
    ]


def _jumps(config: ToyConfig, sweep: Sweep) -> Claim:
    means = {pair: float(np.mean(jumps)) for pair, jumps in peak_jumps(config, sweep).items()}
    *small, last = (means[pair] for pair in TRANSITIONS)
    ratio = last / max(abs(jump) for jump in small)
    plain, control = control_jump(config, sweep)
    return Claim(
        source="Fig. 11b",
        statement="The step from Muon to Untied raises H_peak about five times as much as either "
        "step before.",
        measured=", ".join(f"{a} to {b} {means[a, b]:+.3f}" for a, b in TRANSITIONS)
        + f": {ratio:.1f} times the larger of the others. At batch {config.control_batch_size}: "
        f"{plain:+.3f}; {control:+.3f} where embeddings start at "
        f"{config.control_embedding_std:g} instead of {config.embedding_std:g}",
        verdict=decide(ratio >= 3),
        rule="holds if the mean jump (over batch sizes, tracked bands, seeds, and 10, 20, 30 % of "
        "the run) is at least 3 times the larger absolute jump of the two before; the control, "
        "which shows how much of it the initialisation makes, does not enter",
    )


def _band_sweep(config: ToyConfig, sweep: Sweep) -> list[Claim]:
    values = np.stack([final_by_band(config, sweep, stage, "pc1_peak_mass") for stage in STAGES])
    baseline, rope, muon, untied = values
    top = int(np.sum(values.argmax(0) == STAGES.index("untied")))
    bottom = int(np.sum(values.argmin(0) == STAGES.index("baseline")))
    narrow = np.argsort([cycle for cycle, _ in config.bands])[:NARROW_BANDS]
    wide = np.setdiff1d(np.arange(len(config.bands)), narrow)
    enough = len(wide) > 0
    by_width = [
        tuple(float(stage[bands].mean()) if enough else np.nan for bands in (narrow, wide))
        for stage in (muon, rope)
    ]
    (muon_narrow, muon_wide), (rope_narrow, rope_wide) = by_width
    count = len(config.bands)
    return [
        Claim(
            source="Fig. 11c",
            statement="Untied has the largest PC1 peak mass in every band, Baseline a uniformly "
            "small one.",
            measured=f"Untied largest in {top} of {count} bands, Baseline smallest in {bottom}; "
            f"means {baseline.mean():.2f} / {rope.mean():.2f} / {muon.mean():.2f} / "
            f"{untied.mean():.2f}",
            verdict=decide(top == count and bottom >= 0.75 * count),
            rule="holds if Untied is largest in all bands and Baseline smallest in three quarters "
            "of them (mean over batch sizes and seeds at the end)",
        ),
        Claim(
            source="Fig. 11c",
            statement="Muon peaks on the narrowest bands, where RoPE dips.",
            measured=f"narrowest {NARROW_BANDS} against the others: Muon {muon_narrow:.2f}, "
            f"{muon_wide:.2f}; RoPE {rope_narrow:.2f}, {rope_wide:.2f}",
            verdict=decide(muon_narrow > muon_wide and rope_narrow < rope_wide, known=enough),
            rule=f"holds if the mean over the {NARROW_BANDS} shortest cycles exceeds that over the "
            "others for Muon and falls below it for RoPE",
        ),
    ]
