"""A run read back where people look at it: in a notebook."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from lnpjax._base.checks import import_extra, require
from lnpjax.pretraining.config.own import MakeModel
from lnpjax.pretraining.folders import read_model
from lnpjax.runs import Row, Run, columns
from lnpjax.runs._table import HEADINGS, summary_cells

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run as it was when it was read, made by `load_run`. A notebook shows its summary.

    Attributes:
        run: its folder.
        rows: all that was recorded.

    Example:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp(), {}) as run:
        ...     run.append({"kind": "train", "step": 0, "loss": 2.5})
        >>> loaded = load_run(run.path)
        >>> loaded.kinds, loaded.columns("train")["loss"]
        (('train',), array([2.5]))
    """

    run: Run
    rows: tuple[Row, ...]

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.run.path

    @property
    def config(self) -> Mapping[str, Any]:
        """What was run."""
        return self.run.config

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of rows that there are: "train", "validation", "lnp", ..."""
        return tuple(dict.fromkeys(row["kind"] for row in self.rows))

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints that there are."""
        return tuple(self.run.checkpoint_steps())

    def columns(self, kind: str) -> dict[str, np.ndarray]:
        """Return the rows of one kind as arrays over them; entries of mappings as "groups/head".

        Args:
            kind: one of `kinds`.

        Raises:
            ValueError: if there are no such rows.
        """
        known = ", ".join(map(repr, self.kinds)) or "none: the run has no rows"
        require(kind in self.kinds, "kind", expected=f"one of {known}", got=repr(kind))
        return columns(self.rows, kind)

    def frame(self, kind: str) -> DataFrame:
        """Return the rows of one kind as a table of pandas.

        Args:
            kind: one of `kinds`.

        Returns:
            A `pandas.DataFrame` with a row for each, and the steps as index where there are any.

        Raises:
            ValueError: if there are no such rows.
            ImportError: if pandas is not installed (the extra "pandas"); `columns` does without.
        """
        table = self.columns(kind)
        pandas = import_extra("pandas", extra="pandas", purpose="a table of rows")
        frame = pandas.DataFrame(table)
        return frame.set_index("step") if "step" in table else frame

    def model(self, *, step: int | None = None, make_model: MakeModel | None = None) -> Any:
        """Return the model as it was trained, a Flax NNX module; the data are not needed.

        Args:
            step: one of `checkpoint_steps`; the last by default.
            make_model: the function that made the model, if it was one of a file; that file is not
                run.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if the run was not made by `lnpjax train`, so that its configuration does
                not say what the model is; if the model is of a file and its function is not given;
                if the run is corrupt, or has no checkpoint of that step.
        """
        require(
            "model" in self.config,
            "path",
            expected="a run of `lnpjax train`, whose configuration says what the model is",
            got=f"{self.path}, which was recorded by a loop of its own",
        )
        return read_model(self.path, step=step, make_model=make_model)[0]

    def params(
        self, *, step: int | None = None, make_model: MakeModel | None = None
    ) -> dict[str, Any]:
        """Return the parameters of `model`, as nested dictionaries of arrays.

        Args:
            step: one of `checkpoint_steps`; the last by default.
            make_model: as for `model`.

        Raises:
            FileNotFoundError, ValueError: as `model`.
        """
        return nnx.to_pure_dict(nnx.state(self.model(step=step, make_model=make_model), nnx.Param))

    def _repr_html_(self) -> str:
        cells, notes = summary_cells(self.rows)
        lines = [_line("th", HEADINGS), *(_line("td", row) for row in cells)]
        counts = ", ".join(
            f"{sum(row['kind'] == kind for row in self.rows)} of {kind}" for kind in self.kinds
        )
        texts = [f"Rows: {counts or 'none'}.", *notes]
        return (
            f"<p><b>{html.escape(self.path.name)}</b></p><table>{''.join(lines)}</table>"
            f"<p>{'<br>'.join(map(html.escape, texts))}</p>"
        )


def load_run(path: str | os.PathLike[str]) -> LoadedRun:
    """Read a run, of `lnpjax train` or of a loop of one's own (`lnpjax.Recorder`).

    Disturbs no process that writes to it: what is read is the run as it is now.

    Args:
        path: its folder.

    Returns:
        The `LoadedRun`.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if it is corrupt.

    Example:
        >>> load_run("nowhere")
        Traceback (most recent call last):
            ...
        FileNotFoundError: path: expected a run folder, got .../nowhere, which is not a folder
    """
    run = Run.open(path)
    return LoadedRun(run, tuple(run.rows()))


def _line(tag: str, cells: tuple[str, ...]) -> str:
    inside = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"
