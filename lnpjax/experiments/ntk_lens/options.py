"""How the ensembles of NTK Lens are trained and measured: what a config says of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRule:
    """How long ensembles train, and at which rate.

    The rate is the first one at which the test loss, mean over a few pilot members, is lowest
    between the epochs `earliest` and `latest`. The first trial is `first_rate`, times
    ``(64 / width)^(3/4)``; after a trial whose minimum was at epoch e, the rate is multiplied by e
    over the geometric mean of the two, by 8 at most and 1/8 at least. Where no trial succeeds, the
    last one's rate is taken; the ensemble's own minimum says in any case whether it fell inside.

    Attributes:
        epochs: of full-batch Adam.
        every: epochs between two measurements.
        earliest: first epoch at which the minimum may lie.
        latest: last such epoch.
        first_rate: of the first trial, for a width of 64.
        pilots: members of a trial.
        attempts: trials at most.
        window: epochs that the averages of the adaptation rate take (the paper's B.4: 20).
    """

    epochs: int = 1200
    every: int = 4
    earliest: int = 400
    latest: int = 1000
    first_rate: float = 1e-4
    pilots: int = 3
    attempts: int = 6
    window: int = 20

    def __post_init__(self) -> None:
        require(
            0 < self.earliest < self.latest < self.epochs,
            "latest",
            expected=f"an epoch between earliest={self.earliest} and epochs={self.epochs}",
            got=self.latest,
        )
        require(
            self.epochs % self.every == 0 and self.window >= self.every,
            "every",
            expected=f"a divisor of epochs={self.epochs}, at most window={self.window}",
            got=self.every,
        )

    @property
    def measured_epochs(self) -> Int[np.ndarray, " points"]:
        """Epochs at which losses and the trace are measured."""
        return np.arange(0, self.epochs + 1, self.every)

    def trial_rate(self, width: int) -> float:
        """The first rate that is tried."""
        return self.first_rate * (64 / width) ** 0.75

    def next_rate(self, rate: float, epoch: int) -> float:
        """The rate to try after one whose minimum lay at that epoch.

        Example:
            >>> TrainingRule(earliest=100, latest=400, epochs=480).next_rate(0.1, 400)
            0.2
        """
        factor = epoch / (self.earliest * self.latest) ** 0.5
        return rate * float(np.clip(factor, 1 / FURTHEST, FURTHEST))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """What ensembles of both experiments share.

    Attributes:
        members: networks of an ensemble.
        num_test: test images that the test loss is taken on.
        num_ntk: test images of the kernel, the first of these.
        dynamics_points: epochs, evenly spaced in log, at which spectra are taken along the way.
        dynamics_members: members whose spectra are taken along the way.
        parameters_together: members run as one program up to that many parameters in all.
        seed: of initialisations and training sets.
        rule: the training.
    """

    members: int = 20
    num_test: int = 2000
    num_ntk: int = 128
    dynamics_points: int = 16
    dynamics_members: int = 20
    parameters_together: int = 100_000_000
    seed: int = 0
    rule: TrainingRule = dataclasses.field(default_factory=TrainingRule)

    def __post_init__(self) -> None:
        require(
            self.dynamics_members <= self.members and self.rule.pilots <= self.members,
            "members",
            expected="no fewer than dynamics_members and the pilots",
            got=self.members,
        )

    @property
    def dynamics(self) -> frozenset[int]:
        """Which of the rule's measured epochs have spectra, as indices; first and last do."""
        last = len(self.rule.measured_epochs) - 1
        points = np.geomspace(1, last, self.dynamics_points - 1).round().astype(int)
        return frozenset((0, *points.tolist()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """What scaling the model and scaling the data share.

    Attributes:
        image_sets: those read from the folder of data; without one, the digits are learned.
        ensemble: members, measurements, and the training rule.
    """

    image_sets: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
    ensemble: EnsembleOptions = dataclasses.field(default_factory=EnsembleOptions)


def check_ascending(name: str, values: tuple[int, ...]) -> None:
    """Refuse scales that do not ascend, or fewer than two.

    Raises:
        ValueError: then.
    """
    require(
        len(values) >= 2 and bool(np.all(np.diff(values) > 0)),
        name,
        expected=f"at least two ascending {name}",
        got=values,
    )


def smoke_ensemble() -> EnsembleOptions:
    """Return the options of the presets `smoke`: seconds, for tests."""
    rule = TrainingRule(
        epochs=24,
        every=2,
        earliest=6,
        latest=22,
        first_rate=0.02,
        pilots=3,
        attempts=1,
        window=6,
    )
    return EnsembleOptions(
        members=3, num_test=32, num_ntk=8, dynamics_points=3, dynamics_members=2, rule=rule
    )


def cpu_ensemble(*, num_test: int, first_rate: float) -> EnsembleOptions:
    """Return the options of the presets `cpu`: a fifth of the paper's epochs, fewer spectra."""
    rule = TrainingRule(
        epochs=240, every=4, earliest=60, latest=220, first_rate=first_rate, attempts=5
    )
    return EnsembleOptions(num_test=num_test, dynamics_points=8, dynamics_members=4, rule=rule)


FURTHEST = 8.0  # a trial far from its target says little about how far
