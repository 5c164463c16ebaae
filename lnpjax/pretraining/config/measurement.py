"""What is measured, at which steps."""

from __future__ import annotations

import dataclasses
from typing import Literal

from lnpjax._base.checks import check_count, require
from lnpjax.decomposition import Estimator, Exact, GlobalHutchinson, Hutchinson, Normalization
from lnpjax.pretraining.config._checks import require_at_most, require_choice
from lnpjax.training import Windows, log_windows

MOST_WINDOWS_PER_DECADE = 10_000
FEW_OUTPUTS = 16
"""Up to so many outputs of a sample, the Jacobian's size is computed without probes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """The LNP components, in windows of steps that are evenly spaced in the logarithm of the step.

    Batch A is the training batch, batch B one of the same size from the validation set.

    Example:
        >>> MeasurementOptions(estimator="global", num_probes=2).make_estimator()
        GlobalHutchinson(num_probes=2)

    Args:
        windows_per_decade: Windows per factor of ten in steps.
        window_width: Steps per window. The default, 10, is for runs of some thousand steps; the
            paper has 50 for tens of thousands (--recipe). A measured step takes about four times as
            long.
        open_end: Leave out the last window, which ends at the last step. The paper has none: its
            measurements end after 63 % of the steps.
        estimator: How the size of the Jacobian is estimated: hutchinson (independent random signs
            per sequence; precise), global (one probe for the whole batch; least memory, most noise)
            or exact (one backward pass per output, without error; for few outputs, or tiny models).
            None: exact where a sample has at most 16 outputs, as with few classes, unless probes
            are asked for; else hutchinson.
        num_probes: Random probes, for hutchinson and global; global has a standard error from two
            on. The paper has ten that all sequences of a batch share; ours are independent, so that
            errors average out over the batch: at 32 sequences, one is as precise as its ten.
        microbatch_size: Sequences whose Jacobians are in memory at once. None: all. The numbers are
            the same to rounding, with one exception: hutchinson needs no probes for the embedding
            and the read-out if all sequences are in memory, but needs them in microbatches. The
            estimates then differ within their standard errors, which are larger in microbatches.
        normalization: What chi_loss and chi_net are made independent of: sample is the number of
            sequences, token the number of tokens, none is nothing. chi_pos is always the same.
        distribution: Also measure, at the first step of each window, how learning is distributed
            over the spectrum, with this many products with the eNTK (16 are enough). Saved in
            RUN/spectra.
        spectra: Also measure, at the first step of each window and at the last step, the spectra of
            each block's activations and of per-sample gradients in the last block, over this many
            held-out sequences (64 are enough). Saved in RUN/spectra.
        hidden_states: Activations for these spectra: raw outputs of blocks, or normalized to a root
            mean square of one, as the authors of Spectral Lens have them.
    """

    windows_per_decade: int = 5
    window_width: int = 10
    open_end: bool = False
    estimator: Literal["hutchinson", "global", "exact"] | None = None
    num_probes: int = 1
    microbatch_size: int | None = None
    normalization: Literal["sample", "token", "none"] = "sample"
    distribution: int = 0
    spectra: int = 0
    hidden_states: Literal["raw", "normalized"] = "raw"

    def check(self) -> None:
        """Refuse values that are invalid, alone or together.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        for name in ("windows_per_decade", "window_width", "num_probes"):
            check_count(name, getattr(self, name))
        for name in ("distribution", "spectra"):
            check_count(name, getattr(self, name), least=0)
        require_at_most("windows_per_decade", self.windows_per_decade, MOST_WINDOWS_PER_DECADE)
        require(self.spectra != 1, "spectra", expected="0, or at least 2 sequences", got=1)
        if self.estimator is not None:
            require_choice("estimator", self.estimator, ("hutchinson", "global", "exact"))
        require_choice("hidden_states", self.hidden_states, ("raw", "normalized"))
        require_choice("normalization", self.normalization, ("sample", "token", "none"))
        require(
            self.estimator != "exact" or self.num_probes == 1,
            "num_probes",
            expected="1 with the estimator exact, which draws none",
            got=self.num_probes,
        )
        check_count("microbatch_size", self.microbatch_size, optional=True)
        require(
            self.estimator != "global" or self.microbatch_size is None,
            "microbatch_size",
            expected="None with the estimator global, which has no Jacobians of samples",
            got=self.microbatch_size,
        )

    def resolve(self, num_outputs: int) -> MeasurementOptions:
        """Return these options with an estimator, chosen by the number of outputs if none is named.

        Args:
            num_outputs: of one sample.

        Example:
            >>> [MeasurementOptions().resolve(count).estimator for count in (10, 100)]
            ['exact', 'hutchinson']
        """
        if self.estimator is not None:
            return self
        few = num_outputs <= FEW_OUTPUTS and self.num_probes == 1
        return dataclasses.replace(self, estimator="exact" if few else "hutchinson")

    def windows(self, steps: int) -> Windows:
        """Return the measured steps of a run.

        Args:
            steps: how many steps the run has.

        Raises:
            ValueError: if a window is wider than the run.

        Example:
            >>> len(MeasurementOptions().windows(1000).steps)
            115
            >>> paper = MeasurementOptions(window_width=50, open_end=True)
            >>> len(paper.windows(66_116).steps), len(paper.windows(42_207).steps)
            (801, 752)
        """
        require(
            self.window_width <= steps,
            "window_width",
            expected=f"at most the {steps} steps of the run, so that a window fits",
            got=self.window_width,
        )
        return log_windows(
            steps,
            per_decade=self.windows_per_decade,
            width=self.window_width,
            last=not self.open_end,
        )

    def make_estimator(self) -> Estimator:
        """Return the estimator of the Jacobian's squared norm."""
        if self.estimator == "exact":
            return Exact(microbatch_size=self.microbatch_size)
        if self.estimator == "global":
            return GlobalHutchinson(self.num_probes)
        return Hutchinson(self.num_probes, microbatch_size=self.microbatch_size)

    def normalization_of_lnp(self) -> Normalization:
        """Return the normalisation as `lnpjax.lnp` takes it."""
        return None if self.normalization == "none" else self.normalization
