"""`lnpjax compare`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from lnpjax._base.checks import require
from lnpjax.commands._files import figure_file, open_to_read, warn_of_changed_rows
from lnpjax.commands._show import console, shown, table
from lnpjax.comparison import (
    KINDS,
    Comparison,
    ComparisonOptions,
    Transition,
    compare,
    family_name,
    incomparable,
)
from lnpjax.comparison._families import differences
from lnpjax.plotting import plot_comparison
from lnpjax.plotting._comparison import correlation_text, matched_text, seeds_label
from lnpjax.plotting._lens import brief
from lnpjax.runs import read_run

FAR = 1.25  # a match that is off by more than this factor in tokens is pointed out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare runs: how fast each learned, and what its spectra looked like at an equal point.

    Runs that differ in nothing except batch size, learning rate, seeds, steps and warm-up are one
    family. The tables show the tokens that each run took to a target loss, relative to the best of
    its family; the spectra where runs are compared; what each change from run to run brought, in
    tokens and in speed, and how it helped (Spectral Lens, section 4); and, for families of three
    runs or more, how well an early spectrum predicted the tokens to the target.

    Args:
        runs: Run folders, in the order in which changes are to be read.
        target: Loss to reach, on the validation set. None: the lowest that all runs reach.
        at: What is equal where spectra are compared: loss (the target), tokens, or fraction (of
            each run's own length).
        tokens: For --at tokens. None: as many as the shortest run has.
        fraction: How early the early exponents are read: at this fraction of the tokens that the
            fastest run of a family takes to the target. For --at fraction, where spectra are
            compared.
        crossing: How tokens to the target are counted: interpolated between validation losses, or
            up to the first checkpoint that meets it, as the paper does.
        out: Where the figure goes; the suffix decides the format.
    """

    runs: tuple[str, ...]
    target: float | None = None
    at: Literal["loss", "tokens", "fraction"] = "loss"
    tokens: float | None = None
    fraction: float = 0.2
    crossing: Literal["interpolated", "checkpoint"] = "interpolated"
    out: str = "comparison.png"

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        options = ComparisonOptions(
            at=self.at,
            target=self.target,
            tokens=self.tokens,
            fraction=self.fraction,
            crossing=self.crossing,
        )
        options.check()
        several = len(self.runs) >= 2
        require(several, "RUN", expected="at least two run folders", got=len(self.runs))
        unused = self.tokens is None or self.at == "tokens"
        require(unused, "--tokens", expected="--at tokens with it", got=f"--at {self.at}")
        out = figure_file(self.out)
        runs = [open_to_read(folder, curves=False) for folder in self.runs]
        warn_of_changed_rows(*runs)
        comparison = compare([read_run(run) for run in runs], options)
        out.parent.mkdir(parents=True, exist_ok=True)
        plot_comparison(comparison, out)
        _print(comparison)
        print(f"figure {shown(out)}")
        return 0


def _print(comparison: Comparison) -> None:
    screen = console()
    for line in _introduction(comparison):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    screen.print(_runs_table(comparison))
    if any(comparison.matches):
        screen.print(_spectra_table(comparison))
    screen.print(_transitions_table(comparison))
    for line in (*_reasons(comparison), *_correlations(comparison), *_warnings(comparison)):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _introduction(comparison: Comparison) -> list[str]:
    is_given = comparison.options.target is not None
    why = "given" if is_given else "the lowest that all runs reach"
    lines = [f"target: a validation loss of {comparison.target:.4g} ({why})"]
    if len(comparison.families) > 1:
        first = [comparison.runs[members[0]] for members in comparison.families]
        names = [family_name(number) for number in range(len(first))]
        for option, values in differences(first).items():
            of = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            lines.append(f"families differ in {option}: {of}")
    return lines


def _where(comparison: Comparison) -> str:
    return matched_text(comparison).removeprefix("at ").removeprefix("after ")


def _runs_table(comparison: Comparison) -> Any:
    headings = ("run", "family", "batch", "tokens to target", "of best", "tokens/s")
    speeds = table("Speed", headings)
    for i, run in enumerate(comparison.runs):
        speeds.add_row(
            run.name,
            comparison.family_of(i),
            "-" if run.batch_size is None else str(run.batch_size),
            _tokens(comparison.tokens[i]),
            _text(comparison.efficiencies[i], ".2f"),
            _tokens(comparison.throughput[i]),
        )
    return speeds


def _spectra_table(comparison: Comparison) -> Any:
    headings = ("run", "RankMe", "α head", "α tail", "gradient RankMe", "tokens", "loss")
    spectra = table(f"Spectra at {_where(comparison)}", headings)
    for run, matched in zip(comparison.runs, comparison.matches, strict=True):
        if matched is None:
            spectra.add_row(run.name, *["-"] * 6)
            continue
        number = matched.spectra.number
        spectra.add_row(
            run.name,
            _text(number("activations", "rank_me"), ".1f"),
            _text(number("activations", "alpha_head"), ".2f"),
            _text(number("activations", "alpha_tail"), ".2f"),
            _text(number("gradients", "rank_me"), ".1f"),
            brief(matched.spectra.tokens),
            f"{matched.loss:.3f}",
        )
    return spectra


def _transitions_table(comparison: Comparison) -> Any:
    headings = ("from → to", "TokGain", "ThrGain", "activations", "gradients", "label")
    changes = table("Changes", headings)
    for step in comparison.transitions:
        before, after = (seeds_label(comparison, side) for side in (step.before, step.after))
        changes.add_row(
            f"{before} → {after}",
            _text(100 * step.gains.token, "+.1f", " %"),
            _text(100 * step.gains.throughput, "+.1f", " %"),
            *_moved(step),
            step.verdict.label,
        )
    return changes


def _moved(step: Transition) -> list[str]:
    return [
        "-" if math.isnan(moved.size) else f"{moved.size:.1f} ({moved.exponent_change:+.2f})"
        for moved in (step.moved[kind] for kind in KINDS)
    ]


def _reasons(comparison: Comparison) -> list[str]:
    verdicts = dict.fromkeys(step.verdict for step in comparison.transitions)
    lines = [f"{verdict.label}: {verdict.reason}" for verdict in verdicts]
    moved = [one for step in comparison.transitions for one in step.moved.values()]
    units = {one.unit for one in moved if not math.isnan(one.size)}
    noise = {
        "seeds": "its spread over seeds",
        "fits": "standard errors of the fits (seeds would give a better unit: repeat a run)",
    }
    what = "activations, gradients: how far their head exponent moved, as it is in brackets, in"
    lines += [f"{what} {noise[unit]}" for unit in sorted(units)]
    return lines


def _correlations(comparison: Comparison) -> list[str]:
    correlations = comparison.correlations
    if correlations is None:
        return []
    lines = [
        f"early α tail (at {comparison.options.fraction:.0%} of the fastest run's tokens) against "
        "tokens to the target, Spearman's rho (p: share of all orders at least as extreme)"
    ]
    within = iter(correlations.within)
    for number, early in enumerate(comparison.early):
        if early is None:
            continue
        layers = early.over_layers
        lines.append(f"  family {family_name(number)}: {correlation_text(next(within))}")
        if not math.isnan(layers.late_advantage):
            late = f"{layers.late_advantage:+.2f}"
            lines.append(f"    last layer minus the mean of the first two: {late}")
    if correlations.num_families > 1:
        mean, pooled = correlation_text(correlations.mean), correlation_text(correlations.pooled)
        lines.append(f"  mean of {correlations.num_families} families: {mean}")
        lines.append(f"  pooled, scaled within families: {pooled}")
    return lines


def _warnings(comparison: Comparison) -> list[str]:
    runs, lines = comparison.runs, []

    def named(indices: Any) -> str:
        return ", ".join(runs[i].name for i in indices)

    if options := incomparable(runs):
        lines.append(f"careful: runs differ in {', '.join(options)}: equal losses are not equal")
    if unmet := np.flatnonzero(np.isnan(comparison.tokens)).tolist():
        lines.append(f"the target is never reached by {named(unmet)}")
    if bare := [i for i, run in enumerate(runs) if not run.spectra]:
        lines.append(f"no spectra in {named(bare)}: record them with lnpjax train --spectra N")
    far = [
        f"{run.name} (x{matched.token_ratio:.2f})"
        for run, matched in zip(runs, comparison.matches, strict=True)
        if matched is not None and abs(math.log(matched.token_ratio)) > math.log(FAR)
    ]
    if far:
        names = ", ".join(far)
        lines.append(f"spectra measured far, in tokens, from where they are compared: {names}")
    slow = np.flatnonzero(np.isnan(comparison.throughput)).tolist()
    if slow:
        lines.append(f"no record of tokens per second in {named(slow)} (runs of older versions)")
    elif not comparison.throughput_is_plain:
        lines.append("tokens/s include the time that measurements took")
    return lines


def _text(number: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(number) else f"{number:{form}}{unit}"


def _tokens(number: float) -> str:
    return "-" if math.isnan(number) else brief(number)
