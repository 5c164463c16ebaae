"""The sizes of the noise experiment (NTK Lens, D.2; Figs. 4 and 7)."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnpjax._base.checks import require

NETWORKS = ("dense", "convolutional")
NUM_CLASSES = 4
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """One size of the experiment.

    Attributes:
        image_sets: those read from the folder of data; without one, the digits are learned.
        coarsen: pixels per side that are averaged to one, where a side has `coarsen_from` at least.
        coarsen_from: see `coarsen`.
        num_train: training images; fewer where the set holds fewer.
        replaced: shares of them that are replaced, ascending from 0.
        noise: standard deviation of the copies' noise.
        members: networks per share.
        num_ntk: test images of the kernel, drawn for each member.
        num_test: test images that the accuracy is taken on.
        hidden: widths of the dense network's hidden layers.
        channels: filters of the convolutional network.
        hidden_after: width of the layer after them.
        batch_size: of SGD.
        learning_rate: of SGD, with a momentum of 0.9.
        epochs: of training.
        points: epochs at which is measured, evenly spaced in log, and 0.
        seed: of everything that is drawn.
    """

    image_sets: tuple[str, ...] = ("cifar10",)
    coarsen: int = 1
    coarsen_from: int = 24
    num_train: int = 2000
    replaced: tuple[float, ...] = (0.0, 0.5, 0.75, 0.9, 0.96)
    noise: float = 0.01
    members: int = 3
    num_ntk: int = 400
    num_test: int = 2000
    hidden: tuple[int, ...] = (256, 256, 256)
    channels: tuple[int, ...] = (32, 32, 32)
    hidden_after: int = 64
    batch_size: int = 128
    learning_rate: float = 0.001
    epochs: int = 1000
    points: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        ordered = bool(np.all(np.diff(self.replaced) > 0))
        require(
            ordered and self.replaced[0] == 0 and self.replaced[-1] < 1,
            "replaced",
            expected="shares in [0, 1), ascending from 0",
            got=self.replaced,
        )

    @property
    def measured_epochs(self) -> list[int]:
        """Epochs after which is measured."""
        points = np.geomspace(1, self.epochs, self.points).round().astype(int).tolist()
        return [0, *sorted(set(points))]


PRESETS = {
    "smoke": NoiseConfig(
        image_sets=("mnist",), coarsen=2, num_train=32, replaced=(0.0, 0.5), members=2, num_ntk=6,
        num_test=24, hidden=(8,), channels=(4,), hidden_after=8, batch_size=8, learning_rate=0.05,
        epochs=3, points=2,
    ),
    "cpu": NoiseConfig(
        image_sets=("fashion_mnist",), coarsen=2, replaced=(0.0, 0.5, 0.75, 0.9, 0.98),
        num_ntk=200, num_test=1000, learning_rate=0.02, epochs=60, points=8,
    ),
    "paper": NoiseConfig(),
}  # fmt: skip
