"""The sizes of the experiment on where networks turn from features to the kernel."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.experiments.ntk_lens.options import TrainingRule, check_ascending


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSizes:
    """One set of images, at several resolutions.

    Attributes:
        images: name of the set.
        sides: pixels along a side: divisors of the published side, or multiples of it.
        ntk_sides: those of them that the NTK parametrisation is tried at.
    """

    images: str
    sides: tuple[int, ...]
    ntk_sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ascending("sides", self.sides)
        require(
            set(self.ntk_sides) <= set(self.sides),
            "ntk_sides",
            expected=f"some of the sides {self.sides}",
            got=self.ntk_sides,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """One size of the experiment.

    Attributes:
        inputs: the sets, with their resolutions; without a folder of data, the digits only.
        depths: layers with weights, the read-out among them.
        widths: of the hidden layers, ascending.
        members: networks of each width; narrow ones scatter more and cost less.
        rank_members: of how many the effective rank is taken, at most.
        num_train: images that are learned, the same for all members and resolutions.
        num_test: test images that the test loss is taken on.
        num_ntk: test images of the kernel, the first of these.
        squared_norm: of the training images in the mean, at every resolution.
        seed: of initialisations and of the choice of images.
        rule: the training; `first_rate` is for 784 pixels and three layers.
    """

    inputs: tuple[InputSizes, ...] = (
        InputSizes(images="fashion_mnist", sides=(7, 14, 28, 56), ntk_sides=(14, 28)),
        InputSizes(images="digits", sides=(8, 32), ntk_sides=(8, 32)),
    )
    depths: tuple[int, ...] = (3, 4)
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    members: tuple[int, ...] = (96, 80, 48, 32, 24, 16, 10, 10, 10, 10)
    rank_members: int = 48
    num_train: int = 100
    num_test: int = 2000
    num_ntk: int = 128
    squared_norm: float = 160.0
    seed: int = 0
    rule: TrainingRule = dataclasses.field(default_factory=TrainingRule)

    def __post_init__(self) -> None:
        check_ascending("widths", self.widths)
        require(
            len(self.members) == len(self.widths) and min(self.members) >= 2,
            "members",
            expected=f"two or more for each of the {len(self.widths)} widths",
            got=self.members,
        )


PRESETS = {
    "smoke": TransitionConfig(
        inputs=(InputSizes(images="digits", sides=(4, 8), ntk_sides=(4,)),),
        depths=(3,),
        widths=(4, 8, 16, 32),
        members=(3, 3, 3, 3),
        num_train=20,
        num_test=32,
        num_ntk=8,
        rule=TrainingRule(
            epochs=24, every=6, earliest=6, latest=18, first_rate=0.02, attempts=1, window=6
        ),
    ),
    "cpu": TransitionConfig(
        widths=(8, 16, 32, 64, 128, 256, 512, 1024),
        inputs=(
            InputSizes(images="fashion_mnist", sides=(7, 14, 28, 56), ntk_sides=(14, 28)),
            InputSizes(images="digits", sides=(8, 32)),
        ),
        members=(96, 80, 48, 32, 24, 16, 8, 6),
        num_test=500,
        num_ntk=64,
        rule=TrainingRule(
            epochs=128, every=4, earliest=32, latest=112, first_rate=7.5e-4, attempts=4
        ),
    ),
    "paper": TransitionConfig(),
}
