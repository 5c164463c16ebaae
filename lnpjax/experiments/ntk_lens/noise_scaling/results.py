"""What the figures and the claims of the noise experiment read off its finished sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import SET_NAMES

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.noise_scaling.config import NoiseConfig

COLUMNS = ("rank", "train_loss", "test_loss", "train_accuracy", "test_accuracy")


class NoiseRuns(NamedTuple):
    """The networks of one kind on one set.

    Attributes:
        images: name of the set.
        network: "dense" or "convolutional".
        kept: shares of the training images that are not replaced, descending.
        epochs: after which was measured.
        values: by column; a member has the same initialisation at every share.
    """

    images: str
    network: str
    kept: Float[np.ndarray, " shares"]
    epochs: Float[np.ndarray, " epochs"]
    values: Mapping[str, Float[np.ndarray, "shares members epochs"]]

    @property
    def name(self) -> str:
        """For people."""
        return f"{SET_NAMES[self.images]}, {self.network}"


def noise_runs(config: NoiseConfig, sweep: Sweep) -> list[NoiseRuns]:
    """Return the networks of every kind and set, in the order of the rows."""
    rows = sweep.rows()
    epochs = np.array(config.measured_epochs, float)
    shape = (len(config.replaced), config.members, len(epochs))
    runs = []
    for images, network in dict.fromkeys((row["set"], row["network"]) for row in rows):
        chosen = [row for row in rows if (row["set"], row["network"]) == (images, network)]
        # Rows come by share, then by epoch, then by member.
        by_epoch = (shape[0], shape[2], shape[1])
        values = {
            column: np.array([row[column] for row in chosen]).reshape(by_epoch).swapaxes(1, 2)
            for column in COLUMNS
        }
        runs.append(NoiseRuns(images, network, 1 - np.array(config.replaced), epochs, values))
    return runs
