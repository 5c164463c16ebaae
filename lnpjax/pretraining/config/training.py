"""The optimiser, its schedule, and what a run writes down while it trains."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from lnpjax._base.checks import check_count, require
from lnpjax.pretraining.config._checks import require_at_most, require_choice, require_divisible
from lnpjax.sharding import MeshShape
from lnpjax.training import log_windows

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
# fmt: off
VIT_LEARNING_RATES = {
    "70K": 2e-3,
    "546.2K": 2.86e-4, "1.8M": 1.89e-4, "9.4M": 9.0e-5,
    "459.7K": 1.57e-4, "809.4K": 1.57e-4, "3.2M": 1.57e-4, "7.1M": 1.57e-4,
}
# fmt: on
"""By preset: those of *Spectral Reach*, B.2.3 and B.2.4 (there, for batches of 128), and ours for
70K."""
OTHER_LEARNING_RATE = 1e-3
"""Of a network without presets."""
MOST_STEPS = 2**31 - 1
"""They are counted in 32 bits on the device."""
MOST_CHECKPOINTS_PER_DECADE = 100
LARGEST_SEED = 2**63 - 1


def learning_rate_by_size(kind: str, preset: str | None) -> float:
    """Return the learning rate of a size, or of a network without sizes by name.

    Args:
        kind: of the network.
        preset: the name of its size, if it has one.

    Example:
        >>> learning_rate_by_size("vit", "9.4M"), learning_rate_by_size("mlp", None)
        (9e-05, 0.001)
    """
    if preset is None:
        return OTHER_LEARNING_RATE
    return (VIT_LEARNING_RATES if kind == "vit" else LEARNING_RATES)[preset]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """AdamW (b1 0.9, b2 0.95) on the mean cross-entropy, as in Spectral Reach.

    Example:
        >>> TrainingOptions(steps=0).check()
        Traceback (most recent call last):
            ...
        ValueError: steps: expected an integer >= 1, got 0

    Args:
        steps: Training steps (the paper: 66116 of stories, 42207 of pixels, one epoch each).
        batch_size: Sequences per batch (the paper: 32 of stories, 128 of pixels).
        fill_last_batch: Fill the last batch of an epoch with samples from its beginning, so that
            none is left out. The paper's steps are counted like this.
        learning_rate: Learning rate after the warm-up. None: that of the paper for the
            preset, 0.005 for 115K, 0.002 for the vit 70K, and 0.001 for models without presets.
        warmup_steps: Steps over which the learning rate rises linearly to its value.
        schedule: The learning rate after the warm-up: constant (as in the paper), cosine (falls to
            the last step), or wsd (warmup-stable-decay: constant, then falls linearly).
        decay_steps: With wsd, over how many of the last steps it falls. None: a fifth of all.
        final_share: With cosine and wsd, the share of the learning rate at which the fall ends.
        clip_norm: Scale gradients down to this norm where they are larger. What is measured is the
            gradient before. None: never.
        weight_decay: Decoupled weight decay, on all parameters.
        seed: Seed of the initial parameters and of the measurements' random probes.
        data_seed: Seed of the order of the data; separate from --seed, so that models can differ on
            equal data.
        log_every: Steps from one training row to the next; a row is about 150 bytes.
        validate_every: Steps from one validation loss to the next; there is always one after the
            first and one after the last step.
        test_every: Steps from one test loss to the next; there is always one after the last step.
            None: no others.
        checkpoint_every: Steps from one checkpoint to the next; there is always one after the last
            step.
        checkpoints_kept: How many of the latest checkpoints are kept in the run.
        checkpoints_at: Also save a checkpoint after these numbers of steps, and keep it: numbers
            with commas, or log:N for N of them per factor of ten, evenly spaced in the logarithm.
        mesh: Shard each batch over the devices of the axis data, and the parameters over all
            devices: data=4,model=2 takes eight devices. None: one device. Numbers differ by
            rounding.
    """

    steps: int = 1200
    batch_size: int = 32
    fill_last_batch: bool = False
    learning_rate: float | None = None
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    decay_steps: int | None = None
    final_share: float = 0.0
    clip_norm: float | None = None
    weight_decay: float = 0.01
    seed: int = 0
    data_seed: int = 0
    log_every: int = 1
    validate_every: int = 100
    test_every: int | None = None
    checkpoint_every: int = 500
    checkpoints_kept: int = 2
    checkpoints_at: str | None = None
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
        check_count("test_every", self.test_every, optional=True)
        clip = self.clip_norm
        clips = clip is None or (math.isfinite(clip) and clip > 0)
        require(clips, "clip_norm", expected="a finite number > 0", got=clip)
        self._check_schedule()
        self.pinned_steps()
        if self.mesh is not None:
            require(isinstance(self.mesh, str), "mesh", expected="a text", got=repr(self.mesh))
            require_divisible("batch_size", self.batch_size, MeshShape.parse(self.mesh).data)

    def _check_schedule(self) -> None:
        require_choice("schedule", self.schedule, ("constant", "cosine", "wsd"))
        check_count("decay_steps", self.decay_steps, optional=True)
        share, constant = self.final_share, self.schedule == "constant"
        require(0 <= share <= 1, "final_share", expected="a share in [0, 1]", got=share)
        expected = "0 with a constant learning rate, which does not fall"
        require(not (constant and share), "final_share", expected=expected, got=share)
        expected = "None without the schedule wsd"
        wsd = self.schedule == "wsd"
        require(
            wsd or self.decay_steps is None, "decay_steps", expected=expected, got=self.decay_steps
        )
        room = self.steps - self.warmup_steps
        expected = f"fewer than the {self.steps} steps, of which some follow for the fall"
        require(constant or room > 0, "warmup_steps", expected=expected, got=self.warmup_steps)
        expected = f"at most the {room} steps after the warm-up"
        fits = self.decay_steps is None or self.decay_steps <= room
        require(fits, "decay_steps", expected=expected, got=self.decay_steps)

    def steps_of_decay(self) -> int:
        """Return over how many of the last steps the learning rate falls, with wsd.

        Example:
            >>> TrainingOptions(steps=1000, schedule="wsd").steps_of_decay()
            200
        """
        room = self.steps - self.warmup_steps
        return min(room, max(1, self.steps // 5)) if self.decay_steps is None else self.decay_steps

    def pinned_steps(self) -> tuple[int, ...]:
        """Return the numbers of steps after which a checkpoint is saved and kept, ascending.

        Raises:
            ValueError: if `checkpoints_at` has another form, or names steps that do not come.

        Example:
            >>> TrainingOptions(steps=1000, checkpoints_at="log:1").pinned_steps()
            (1, 10, 100, 1000)
            >>> TrainingOptions(steps=1000, checkpoints_at="7,64").pinned_steps()
            (7, 64)
        """
        if self.checkpoints_at is None:
            return ()
        text = self.checkpoints_at.removeprefix("log:")
        numbers = [int(part) for part in text.split(",") if re.fullmatch(r"\s*\d{1,10}\s*", part)]
        is_log = text != self.checkpoints_at
        whole = len(numbers) == len(text.split(",")) and (len(numbers) == 1 or not is_log)
        in_range = all(1 <= number <= self.steps for number in numbers)
        expected = f"log:N, or numbers from 1 to {self.steps} with commas"
        fits = whole and (in_range or is_log) and min(numbers) >= 1
        require(fits, "checkpoints_at", expected=expected, got=repr(self.checkpoints_at))
        if not is_log:
            return tuple(sorted(set(numbers)))
        require_at_most("checkpoints_at", numbers[0], MOST_CHECKPOINTS_PER_DECADE)
        starts = log_windows(self.steps, per_decade=numbers[0], width=1).starts
        return (*(start for start in starts if start), self.steps)
