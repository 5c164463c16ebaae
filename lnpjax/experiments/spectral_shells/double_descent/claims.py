"""What Spectral Shells says of double descent (section 6), judged by a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, jackknifed, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.double_descent.results import (
    KERNELS,
    by_width,
    over_widths,
    rise_in_time,
    wide_enough,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.double_descent.config import DoubleDescentConfig

LEAST_SEEDS = 8
FITTED = 0.1
ROUNDING = Bounds(high=1e-4)
POSITIVE = Bounds(low=0.0)
LEADING = Bounds(0.5, 2.0)
HALF = Bounds(high=0.5)
ANY = Bounds(low=0.05)
Widths = Float[np.ndarray, "widths seeds"]
Path = Float[np.ndarray, "seeds time"]
Paths = Float[np.ndarray, "widths seeds time"]


class Parts(NamedTuple):
    """What makes the gap between both losses, of several widths."""

    diagonal: Paths
    train: Paths
    test: Paths


def judge(config: DoubleDescentConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """

    def paths(kernel: str, column: str) -> Paths:
        return over_widths(config, sweep, kernel, column)

    enough = Need.at_least(LEAST_SEEDS, "seeds", config.num_seeds)
    chosen = wide_enough(config)
    fitted = [enough, fits_noise(config, paths("trained", "train_loss")[chosen])]
    rises = {kernel: rise_in_time(paths(kernel, "test_loss"))[chosen] for kernel in KERNELS}
    gap = paths("trained", "test_loss") - paths("trained", "train_loss")
    return [
        training_falls(paths("trained", "train_loss"), [enough]),
        at_small_eigenvalues(
            by_width(config, sweep, "weight_low")[chosen],
            by_width(config, sweep, "weight_high")[chosen],
            [enough],
        ),
        flows_down(by_width(config, sweep, "flowed_down"), [enough]),
        diagonal_leads(
            [config.widths[place] for place in chosen],
            Parts(
                *(
                    paths("trained", column)[chosen]
                    for column in ("diagonal", "train_loss", "test_loss")
                )
            ),
            fitted,
        ),
        test_rises(rises["trained"], fitted),
        frozen_does_not(rises["frozen"], rises["trained"], fitted),
        peak_over_width(config, paths("trained", "test_loss"), fitted),
        *observed(config, sweep, gap),
    ]


def fits_noise(config: DoubleDescentConfig, losses: Paths) -> Need:
    """Return that networks above the threshold come to fit the noise."""
    level = config.noise**2 / 2
    last = float(np.max(losses[..., -1].mean(axis=1))) / level
    what = f"training losses below {FITTED:.0%} of the noise at every width above the threshold"
    return Need(what, last < FITTED, f"{last:.1%} at most")


def over_seeds(values: Widths) -> Uncertain:
    """Return the mean over widths, with its error over seeds, which all widths share."""
    return mean_of(values.mean(axis=0))


def training_falls(losses: Paths, needs: list[Need]) -> Claim:
    """Judge whether the training loss never rises."""
    rises = np.max(np.diff(losses, axis=-1) / losses[..., :1], axis=(0, 2))
    return Claim(
        source="6.1",
        statement="The training loss never rises.",
        quantity="its largest rise between two measurements, as a part of the first loss; the "
        "largest of all widths, mean over seeds",
        findings=[Finding("", mean_of(rises), ROUNDING)],
        needs=needs,
    )


def at_small_eigenvalues(low: Widths, high: Widths, needs: list[Need]) -> Claim:
    """Judge whether the mismatch of the two samples sits at small eigenvalues."""
    return Claim(
        source="6.2, 6.4",
        statement="The mismatch of two samples is supported on modes of small eigenvalues.",
        quantity="ln of the mean |w| of modes below a hundredth of the largest eigenvalue over "
        "that of the others, before training; mean over widths above the threshold and seeds",
        findings=[Finding("", over_seeds(np.log(low / high)), POSITIVE)],
        needs=needs,
    )


def flows_down(shares: Widths, needs: list[Need]) -> Claim:
    """Judge whether fluxes bring energy to the modes of small eigenvalues."""
    return Claim(
        source="6.3",
        statement="Transport carries error from larger eigenvalues, which are learned, to smaller "
        "ones.",
        quantity="energy that fluxes carry below a hundredth of the largest eigenvalue, over the "
        "dissipated energy; mean over widths and seeds",
        findings=[Finding("", over_seeds(shares), POSITIVE)],
        needs=needs,
    )


def diagonal_leads(widths: Sequence[int], parts: Parts, needs: list[Need]) -> Claim:
    """Judge whether the diagonal of the mismatch explains the gap between the losses."""
    return Claim(
        source="6.4",
        statement="To leading order the gap between test and training loss is the sum of w E over "
        "modes.",
        quantity="that sum over the gap where the mean test loss is lowest, means over seeds; "
        "widths above the threshold",
        findings=[
            Finding(f"width {width}", share_at_lowest(*columns), LEADING)
            for width, *columns in zip(widths, *parts, strict=True)
        ],
        needs=needs,
        note="To leading order: within a factor of 2. At the end, where nothing is left of the "
        "training errors, the sum is zero",
    )


def share_at_lowest(diagonal: Path, train: Path, test: Path) -> Uncertain:
    """Return the diagonal's share in the gap, of means over seeds, at their lowest test loss.

    Example:
        >>> test, train = np.array([[5.0, 3.0, 4.0]] * 2), np.ones((2, 3))
        >>> share_at_lowest(np.full((2, 3), 1.0), train, test).value
        0.5
    """
    time = int(np.argmin(test.mean(axis=0)))
    above, below = diagonal[:, time], test[:, time] - train[:, time]
    return ratio_of_means(above, below)


def ratio_of_means(
    above: Float[np.ndarray, " seeds"], below: Float[np.ndarray, " seeds"]
) -> Uncertain:
    """Return the ratio of two means over the same seeds.

    Example:
        >>> ratio_of_means(np.array([1.0, 2.0]), np.array([2.0, 4.0])).value
        0.5
    """
    return jackknifed(len(above), lambda seeds: float(above[seeds].mean() / below[seeds].mean()))


def test_rises(rises: Widths, needs: list[Need]) -> Claim:
    """Judge whether the test loss rises again after its minimum."""
    return Claim(
        source="6.4",
        statement="The test loss is not monotone in time although the training loss is.",
        quantity="ln of the last test loss over the lowest; mean over widths above the threshold "
        "and seeds",
        findings=[Finding("", over_seeds(rises), ANY)],
        needs=needs,
    )


def frozen_does_not(frozen: Widths, trained: Widths, needs: list[Need]) -> Claim:
    """Judge whether the rise takes transport, which a frozen kernel does not have."""
    return Claim(
        source="4.6, 6.3",
        statement="All that is not monotone comes from transport: without any, there is no such "
        "rise.",
        quantity="rise of ln test loss with the kernel frozen, over that with the kernel trained; "
        "means over widths above the threshold, paired over seeds",
        findings=[Finding("", ratio_of_means(frozen.mean(axis=0), trained.mean(axis=0)), HALF)],
        needs=needs,
    )


def peak_over_width(config: DoubleDescentConfig, losses: Paths, needs: list[Need]) -> Claim:
    """Judge whether the last test loss has a peak where parameters are as many as points."""
    place = config.widths.index(config.threshold)
    last = np.log(losses[..., -1])
    return Claim(
        source="6.2",
        statement="Capacity shows the classical double descent.",
        quantity="ln of the last test loss at the width with as many parameters as training "
        "points, less that at the smallest and at the largest width; mean over seeds, pairs",
        findings=[
            Finding(f"width {config.widths[end]}", mean_of(last[place] - last[end]), POSITIVE)
            for end in (0, -1)
        ],
        needs=needs,
    )


def observed(config: DoubleDescentConfig, sweep: Sweep, gap: Paths) -> list[Observation]:
    """Tell what parts the gap has at the end."""
    chosen = wide_enough(config)
    last = gap[chosen][..., -1].mean()
    parts = ", ".join(
        f"{name.replace('_', ' ')} {part[chosen][..., -1].mean() / last:.0%}"
        for name in ("diagonal", "off_diagonal", "outside")
        for part in (over_widths(config, sweep, "trained", name),)
    )
    return [
        Observation(
            source="6.2",
            statement="1/2 <e, Delta e> is the whole gap.",
            seen=f"its parts at the end of training, above the threshold: {parts} (the last is "
            "what the test error has outside of the modes of the training points)",
        ),
        Observation(
            source="6.2",
            statement="Capacity shifts the timing and magnitude of the amplification.",
            seen="`double_descent.png`, in the middle",
        ),
    ]
