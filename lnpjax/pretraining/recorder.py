"""From what training steps return to rows: in order, complete, and without idling the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import jax

from lnpjax._base.reporting import Reporter
from lnpjax.pretraining.lens import LensSpectra, lens_row, save_lens
from lnpjax.pretraining.processes import SharedRun
from lnpjax.recording._recorder import STEPS_AHEAD
from lnpjax.recording._rows import RowLog
from lnpjax.runs import Run, Writer
from lnpjax.runs._writers import WriteFunction
from lnpjax.spectra import PositionDistribution
from lnpjax.training import Record


class Speed(NamedTuple):
    """How fast a session trained, compilation left out.

    Attributes:
        tokens: trained on.
        seconds: from the first step to the last, measurements included.
        tokens_per_second: their ratio; NaN where there was no step.
        plain_tokens_per_second: of the steps without a measurement; NaN where there was none.
        measuring_share: the fraction of the steps' time that went into measuring the LNP
            components; NaN where there was no step without a measurement to compare with.
    """

    tokens: int
    seconds: float
    tokens_per_second: float
    plain_tokens_per_second: float
    measuring_share: float


class NonFiniteLossError(Exception):
    """The training loss of a step is infinite or NaN.

    Attributes:
        step: which step.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"the loss of step {step} is {loss}: training stops there (a lower --learning-rate or "
            "more --warmup-steps usually help); every row up to it is saved"
        )
        self.step = step


class Recorder:
    """Write the rows of a run, a few steps behind the device.

    Args:
        run: where rows are appended.
        writers: get the same rows, also as functions of a step and its numbers; one that fails gets
            no more.
        reporter: receives each step's loss and chi_pos, and warnings.
        tokens_per_step: what a step adds to the tokens seen.
        num_parameters: turns tokens into FLOPs.
        log_every: which steps get a "train" row: multiples of this, and one whose loss is not
            finite.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        run: Run | SharedRun,
        *,
        writers: Sequence[Writer | WriteFunction],
        reporter: Reporter,
        tokens_per_step: int,
        num_parameters: int,
        log_every: int,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._run = run
        self._log = RowLog(
            run,
            writers,
            reporter.warn,
            tokens_per_step=tokens_per_step,
            num_parameters=num_parameters,
        )
        self._reporter = reporter
        self._tokens_per_step = tokens_per_step
        self._log_every = log_every
        self._pending: deque[tuple[int, Mapping[str, Any], Record | None]] = deque()
        self._stopwatch = _Stopwatch(clock)

    def push(self, step: int, metrics: Mapping[str, Any], record: Record | None = None) -> None:
        """Take over what a step returned; rows of steps that are done by now are written.

        Args:
            step: the step.
            metrics: its loss and learning rate, still on the device.
            record: its measurement, if it was measured.

        Raises:
            NonFiniteLossError: if the loss of this or an earlier step is not finite; rows up to
                that step's are written.
        """
        self._stopwatch.start()
        self._pending.append((step, metrics, record))
        while len(self._pending) > STEPS_AHEAD:
            self._write_oldest()

    def flush(self) -> None:
        """Wait for every step taken over, and write its rows.

        Raises:
            NonFiniteLossError: if the loss of a step is not finite; rows up to that step's are
                written.
        """
        while self._pending:
            self._write_oldest()
        self._stopwatch.stop()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a row of some kind, with the tokens and FLOPs up to and including its step.

        Args:
            kind: one of `lnpjax.runs._rows.ROWS`.
            step: the step.
            **values: the fields of that kind.
        """
        self._log.write(kind, step, **values)

    def write_scores(self, kind: str, step: int, scores: Mapping[str, float]) -> None:
        """Append a "validation" or "test" row, and show its accuracy, if there is one.

        Args:
            kind: "validation" or "test".
            step: after whose update.
            scores: the loss, and where classes are learned the accuracy.
        """
        self.write(kind, step, **scores)
        if kind == "validation" and "accuracy" in scores:
            self._reporter.score(accuracy=scores["accuracy"])

    def write_spectra(self, step: int, spectra: LensSpectra, loss: float) -> None:
        """Append a "spectra" row, and save the spectra themselves to `spectra/lens-STEP.npz`.

        Args:
            step: before whose update they were measured.
            spectra: what was measured.
            loss: the validation loss at the same parameters.
        """
        spectra = jax.device_get(spectra)
        save_lens(self._run, step, spectra)
        before = step * self._tokens_per_step
        self.write("spectra", step, tokens_before=before, loss=loss, **lens_row(spectra))

    def write_distribution(self, step: int, distribution: PositionDistribution) -> None:
        """Append a "distribution" row, and save the whole of it to `spectra/position-STEP.npz`.

        Args:
            step: before whose update it was measured.
            distribution: what was measured.
        """
        self._log.write_distribution(step, jax.device_get(distribution))

    def speed(self, steps: int) -> Speed:
        """Return how fast this recorder's steps were.

        Args:
            steps: how many steps it has seen.
        """
        tokens = steps * self._tokens_per_step
        seconds = self._stopwatch.seconds_since_start()
        return Speed(
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds else math.nan,
            plain_tokens_per_second=self._tokens_per_step / self._stopwatch.plain_step(),
            measuring_share=self._stopwatch.measuring_share(),
        )

    def _write_oldest(self) -> None:
        step, metrics, record = self._pending.popleft()
        on_host, measurement = jax.device_get((metrics, record and record.measurement))
        self._stopwatch.lap(measured=record is not None)
        loss = float(on_host["loss"])
        if step % self._log_every == 0 or not math.isfinite(loss):
            self.write("train", step, loss=loss, learning_rate=float(on_host["learning_rate"]))
        if record is not None:
            self._log.write_lnp(step, int(record.window), measurement)
        chi_pos = None if record is None else float(measurement.chi_pos)
        self._reporter.update(step + 1, loss=loss, chi_pos=chi_pos)
        if not math.isfinite(loss):
            raise NonFiniteLossError(step, loss)


class _Stopwatch:
    """Split the time of training into that of steps with and without a measurement.

    A lap ends where a step's result arrives, which, as long as the device is never idle, is one
    step's time after the lap before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: float | None = None
        self._mark: float | None = None
        self._seconds = {True: 0.0, False: 0.0}
        self._laps = {True: 0, False: 0}

    def start(self) -> None:
        if self._mark is None:
            self._mark = self._clock()
        if self._started is None:
            self._started = self._mark

    def lap(self, *, measured: bool) -> None:
        now = self._clock()
        self._seconds[measured] += 0.0 if self._mark is None else now - self._mark
        self._laps[measured] += 1
        self._mark = now

    def stop(self) -> None:
        self._mark = None

    def seconds_since_start(self) -> float:
        return 0.0 if self._started is None else self._clock() - self._started

    def plain_step(self) -> float:
        """Return the mean time of a step without a measurement; NaN where there is none."""
        laps = self._laps[False]
        return self._seconds[False] / laps if laps else math.nan

    def measuring_share(self) -> float:
        """Return what measured steps took beyond as many plain ones, over the time of all."""
        total, plain = sum(self._seconds.values()), self.plain_step()
        if math.isnan(plain) or not total:
            return math.nan
        return max(0.0, self._seconds[True] - self._laps[True] * plain) / total
