"""What appends rows to a run, and hands copies to writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lnpjax.decomposition import LNP
from lnpjax.recording._measurements import distribution_fields, lnp_fields, save_distribution
from lnpjax.runs import Writer, training_flops
from lnpjax.runs._rows import make_row
from lnpjax.runs._writers import WriteFunction, as_writer, flatten_row, name_of
from lnpjax.spectra import PositionDistribution
from lnpjax.status import describe_status


class RowLog:
    """Append rows to a run, in the forms that readers know.

    Args:
        run: anything with the methods `append` and `save_spectrum` of a `Run`.
        writers: get the same rows; one that fails gets no more.
        warn: called with a line of text about a writer that failed, and about the flags of a
            measurement, once for each status.
        tokens_per_step: what a step adds to the tokens seen; `None` where that is unknown.
        num_parameters: turns tokens into FLOPs, or `None`.
    """

    def __init__(
        self,
        run: Any,
        writers: Sequence[Writer | WriteFunction],
        warn: Callable[[str], object],
        *,
        tokens_per_step: int | None,
        num_parameters: int | None,
    ) -> None:
        self._run = run
        self._writers = [as_writer(writer) for writer in writers]
        self._warn = warn
        self._tokens_per_step = tokens_per_step
        self._num_parameters = num_parameters
        self._warned: set[int] = set()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a row of some kind, with the tokens and FLOPs up to and including its step.

        Args:
            kind: one of `lnpjax.runs._rows.ROWS`.
            step: the step.
            **values: the fields of that kind.
        """
        tokens = flops = None
        if self._tokens_per_step is not None:
            tokens = (step + 1) * self._tokens_per_step
            if self._num_parameters is not None:
                flops = training_flops(self._num_parameters, tokens)
        row = make_row(kind, step, tokens, flops, **values)
        self._run.append(row)
        for writer in tuple(self._writers):
            try:
                writer.write(step, flatten_row(row))
            except Exception as error:  # a copy of the rows is not worth a run
                self._writers.remove(writer)
                self._warn(f"{name_of(writer)} gets no more rows: {error}")

    def write_lnp(self, step: int, window: int, lnp: LNP) -> None:
        """Append an "lnp" row, and say what is wrong with it."""
        status = int(lnp.status)
        if status and status not in self._warned:
            self._warned.add(status)
            self._warn(
                f"measurement at step {step}: {describe_status(status)}. Its row is kept, with "
                f"status {status}; later ones of this status are not announced"
            )
        self.write("lnp", step, **lnp_fields(window, lnp))

    def write_distribution(self, step: int, distribution: PositionDistribution) -> None:
        """Append a "distribution" row, and save the whole of it to `spectra/position-STEP.npz`."""
        save_distribution(self._run, step, distribution)
        self.write("distribution", step, **distribution_fields(distribution))

    def close_writers(self) -> None:
        """Let the writers that are left write out what is pending."""
        for writer in self._writers:
            writer.close()
