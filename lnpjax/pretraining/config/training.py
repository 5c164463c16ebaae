"""The optimiser, its schedule, and what a run writes down while it trains."""

from __future__ import annotations

import dataclasses
import math

from lnpjax._base.checks import check_count, require
from lnpjax.pretraining.config._checks import require_at_most, require_divisible
from lnpjax.sharding import MeshShape

# fmt: off
LEARNING_RATES = {
    "115K": 5e-3,
    "102.6K": 4e-2, "229.7K": 3e-2, "381.4K": 7e-3, "1.1M": 5e-3, "2.3M": 4e-3, "5.2M": 2e-3,
    "12.5M": 2e-3,
    "1.2M": 1e-2, "2.1M": 5e-3, "3.8M": 5e-3, "7.2M": 4e-3, "15.5M": 2e-3, "31.5M": 6e-4,
    "65.6M": 3e-4, "134M": 1.5e-4,
}
# fmt: on
"""By preset: those of *Spectral Reach*, B.2.1 and B.2.2, and ours for 115K."""
MOST_STEPS = 2**31 - 1
"""They are counted in 32 bits on the device."""
LARGEST_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """AdamW (b1 0.9, b2 0.95) on the mean cross-entropy, as in Spectral Reach.

    Example:
        >>> TrainingOptions(steps=0).check()
        Traceback (most recent call last):
            ...
        ValueError: steps: expected an integer >= 1, got 0

    Args:
        steps: Training steps (the paper: 66116).
        batch_size: Sequences per batch.
        learning_rate: Learning rate after the warm-up. None: that of the paper for the
            preset, and 0.005 for 115K.
        warmup_steps: Steps over which the learning rate rises linearly to its value; it is constant
            from then on.
        weight_decay: Decoupled weight decay, on all parameters.
        seed: Seed of the initial parameters and of the measurements' random probes.
        data_seed: Seed of the order of the data; separate from --seed, so that models can differ on
            equal data.
        log_every: Steps from one training row to the next; a row is about 150 bytes.
        validate_every: Steps from one validation loss to the next; there is always one after the
            first and one after the last step.
        checkpoint_every: Steps from one checkpoint to the next; there is always one after the last
            step.
        checkpoints_kept: How many of the latest checkpoints are kept in the run.
        mesh: Shard each batch over the devices of the axis data, and the parameters over all
            devices: data=4,model=2 takes eight devices. None: one device. Numbers differ by
            rounding.
    """

    steps: int = 1200
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.01
    seed: int = 0
    data_seed: int = 0
    log_every: int = 1
    validate_every: int = 100
    checkpoint_every: int = 500
    checkpoints_kept: int = 2
    mesh: str | None = None

    def check(self) -> None:
        """Refuse invalid values.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        counts = ("steps", "batch_size", "log_every", "validate_every", "checkpoint_every")
        for name in (*counts, "checkpoints_kept"):
            check_count(name, getattr(self, name))
        for name in ("warmup_steps", "seed", "data_seed"):
            check_count(name, getattr(self, name), least=0)
        for name in ("steps", "warmup_steps"):
            require_at_most(name, getattr(self, name), MOST_STEPS)
        require_at_most("seed", self.seed, LARGEST_SEED)
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            fine = value is None or (math.isfinite(value) and value >= 0)
            require(fine, name, expected="a finite number >= 0", got=value)
        if self.mesh is not None:
            require(isinstance(self.mesh, str), "mesh", expected="a text", got=repr(self.mesh))
            require_divisible("batch_size", self.batch_size, MeshShape.parse(self.mesh).data)
