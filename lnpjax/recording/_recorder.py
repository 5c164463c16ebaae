"""What writes the rows of a training loop of one's own."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import jax

from lnpjax._base.checks import check_count, require
from lnpjax._base.reporting import Reporter
from lnpjax.decomposition import LNP
from lnpjax.recording._rows import RowLog
from lnpjax.runs import Run, Writer
from lnpjax.runs._writers import WriteFunction
from lnpjax.spectra import PositionDistribution
from lnpjax.training import Record

STEPS_AHEAD = 4
"""How many steps the device may be ahead of the rows: reading a number waits for its step."""


class Recorder:
    """Write what instrumented steps measure into a run's folder, best as a context manager.

    Rows are written a few steps late, so that the device does not wait for the host, and all of
    them when the recorder is closed, an exception included.

    Args:
        folder: where the run is kept; new, or one that this recorder has written before. Its rows
            are only added to.
        config: what is run, for people who read it later: anything that strict JSON can hold.
        num_parameters: N; with `tokens_per_step` it puts figures over compute, 6 N D.
        tokens_per_step: what a step trains on, in tokens (or samples, where there are none).
            Figures are over steps without it, and runs cannot be compared.
        num_steps: of the whole training, for a `reporter`.
        reporter: shows how far the loop is, such as `lnpjax.runs.NotebookReporter` or
            `lnpjax.runs.terminal_reporter`'s; with `num_steps`.
        writers: get the same numbers, such as `lnpjax.runs.TensorBoardWriter` or any function of a
            step and its numbers; one that fails gets no more, and is warned of.

    Raises:
        ValueError: if a number is less than 1; if the folder holds a run of another `config`.
        FileExistsError: if it holds other files.
        RuntimeError: if another process is writing to it.

    Example:
        >>> import tempfile, jax.numpy as jnp, lnpjax
        >>> measure = lnpjax.lnp(lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2))
        >>> batch = (jnp.eye(2), jnp.ones((2, 1)))
        >>> measured = measure(jnp.zeros((2, 1)), batch, key=jax.random.key(0))
        >>> record = lnpjax.Record(jnp.array(True), jnp.int32(0), jnp.int32(0), measured)
        >>> with Recorder(tempfile.mkdtemp()) as recorder:
        ...     recorder(record, loss=1.0)
        >>> [row["kind"] for row in recorder.run.rows()]
        ['train', 'lnp']
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        num_parameters: int | None = None,
        tokens_per_step: int | None = None,
        num_steps: int | None = None,
        reporter: Reporter | None = None,
        writers: Sequence[Writer | WriteFunction] = (),
    ) -> None:
        check_count("num_parameters", num_parameters, optional=True)
        check_count("tokens_per_step", tokens_per_step, optional=True)
        check_count("num_steps", num_steps, optional=reporter is None)
        known = {} if num_parameters is None else {"num_parameters": num_parameters}
        self.run = Run.create(folder, known | dict(config or {}), exist_ok=True)
        self._log = RowLog(
            self.run,
            writers,
            functools.partial(warnings.warn, stacklevel=2),
            tokens_per_step=tokens_per_step,
            num_parameters=num_parameters,
        )
        self._pending: deque[tuple[Record, dict[str, Any]]] = deque()
        self._reporter = reporter
        self._last = max((row["step"] for row in self.run.rows()), default=-1)
        if reporter is not None and num_steps is not None:
            reporter.start(self._last + 1, num_steps)

    def __call__(self, record: Record, **metrics: Any) -> None:
        """Take over what an instrumented step returned.

        Args:
            record: its record, measured or not.
            **metrics: `loss` and `learning_rate` of the step, as numbers or arrays of shape ();
                neither is needed.

        Raises:
            TypeError: if there are other metrics, or the measurement is neither an `LNP`, nor a
                `PositionDistribution`, nor a mapping of them.
            ValueError: if rows of this step have been written already.
        """
        others = sorted(set(metrics) - {"loss", "learning_rate"})
        require(
            not others,
            "metrics",
            expected="loss and learning_rate",
            got=", ".join(others),
            error=TypeError,
        )
        _parts(record.measurement)
        self._pending.append((record, metrics))
        while len(self._pending) > STEPS_AHEAD:
            self._write_oldest()

    def validation(self, step: int, loss: Any) -> None:
        """Write the loss on a validation set, at the parameters after a step's update.

        Args:
            step: the step.
            loss: a number, or an array of shape ().
        """
        self.flush()
        self._log.write("validation", int(step), loss=float(loss))

    def flush(self) -> None:
        """Wait for the steps that were taken over, and write their rows."""
        while self._pending:
            self._write_oldest()

    def close(self) -> None:
        """Write what is left, and let others write to the folder."""
        try:
            self.flush()
        finally:
            if self._reporter is not None:
                self._reporter.stop()
            self._log.close_writers()
            self.run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write_oldest(self) -> None:
        record, metrics = jax.device_get(self._pending.popleft())
        step = int(record.step)
        require(
            step > self._last,
            "record",
            expected=f"a step after {self._last}, the last in {self.run.path} (start another "
            "folder, or go on where it ended)",
            got=f"step {step}",
        )
        self._last = step
        if metrics:
            row = {name: float(metrics.get(name, math.nan)) for name in ("loss", "learning_rate")}
            self._log.write("train", step, **row)
        measured = _parts(record.measurement) if record.measured else []
        for measurement in measured:
            if isinstance(measurement, LNP):
                self._log.write_lnp(step, int(record.window), measurement)
            else:
                self._log.write_distribution(step, measurement)
        if self._reporter is not None:
            position = float(measured[0].chi_pos) if measured else None
            loss = float(metrics.get("loss", math.nan))
            self._reporter.update(step + 1, loss=loss, chi_pos=position)


def _parts(measurement: Any) -> list[LNP | PositionDistribution]:
    """Return the results within a measurement that have a place in a run."""
    known = (LNP, PositionDistribution)
    parts = list(measurement.values()) if isinstance(measurement, Mapping) else [measurement]
    for part in parts:
        require(
            isinstance(part, known),
            "record",
            expected="a measurement that is an LNP, a PositionDistribution or a mapping of them",
            got=type(part).__name__,
            error=TypeError,
        )
    return parts
