"""Where a run's scalars go besides its own folder: TensorBoard, W&B, trackio, any function."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from lnpjax._base.checks import check_count, import_extra, require
from lnpjax.runs._rows import CONFIG_FILE, PLOTTED, ROWS, Row, flatten

WriteFunction: TypeAlias = Callable[[int, dict[str, float]], Any]
"""A writer that is a function of a step and its numbers by name."""


class Writer(Protocol):
    """What takes the scalars of a run, one step at a time.

    `lnpjax.pretraining.pretrain` gives every writer the numbers of each row that it appends to its
    run, called "KIND/NAME".

    Example:
        >>> class Printer:
        ...     def write(self, step, scalars):
        ...         print(step, scalars)
        ...
        ...     def close(self):
        ...         print("done")
        >>> writer: Writer = Printer()
        >>> writer.write(3, {"train/loss": 2.5})
        3 {'train/loss': 2.5}
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record scalars by name, for one step."""

    def close(self) -> None:
        """Write out what is pending; nothing is written after."""


def flatten_row(row: Row) -> dict[str, float]:
    """Return the numbers of a row of `metrics.jsonl` by "kind/name", as writers show them.

    Args:
        row: a row; its "kind" and "step" are left out, and so are texts and None.

    Returns:
        Floats; those of a parameter group are named "kind/group/name".

    Raises:
        ValueError: if the row has no "kind".

    Example:
        >>> flatten_row({"kind": "lnp", "step": 3, "nu": 0.5, "groups": {"head": {"chi_net": 2}}})
        {'lnp/nu': 0.5, 'lnp/head/chi_net': 2.0}
    """
    require("kind" in row, "row", expected='a "kind"', got=dict(row))
    top = {key: value for key, value in row.items() if key not in ("kind", "step", "groups")}
    flat = flatten(top | dict(row.get("groups", {})), f"{row['kind']}/")
    return {
        name: float(value)
        for name, value in flat.items()
        if value is not None and not isinstance(value, str)
    }


@dataclasses.dataclass(frozen=True)
class _FunctionWriter:
    """Hands every row to a function."""

    function: WriteFunction

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.function(step, dict(scalars))

    def close(self) -> None:
        """There is nothing pending."""


def as_writer(writer: Writer | WriteFunction) -> Writer:
    """Return a writer, also of a function of a step and its numbers.

    Raises:
        TypeError: if it is neither.

    Example:
        >>> as_writer(lambda step, scalars: print(step, scalars)).write(3, {"train/loss": 2.5})
        3 {'train/loss': 2.5}
    """
    if callable(getattr(writer, "write", None)):
        return writer  # type: ignore[return-value]
    require(
        callable(writer),
        "writers",
        expected="writers, or functions of a step and its numbers",
        got=type(writer).__name__,
        error=TypeError,
    )
    return _FunctionWriter(writer)  # type: ignore[arg-type]


def name_of(writer: Writer) -> str:
    """Return what a message calls a writer.

    Example:
        >>> name_of(as_writer(print))
        'print'
    """
    if isinstance(writer, _FunctionWriter):
        return getattr(writer.function, "__name__", repr(writer.function))
    return type(writer).__name__


def is_plotted(name: str) -> bool:
    """Return whether a number is one that people plot; those that no run has all are.

    Example:
        >>> [is_plotted(name) for name in ("lnp/chi_pos", "lnp/head/chi_pos", "lnp/sem_df", "mine")]
        [True, True, False, True]
    """
    kind, _, rest = name.partition("/")
    of_group = kind == "lnp" and rest.endswith("/chi_pos")
    return kind not in ROWS or of_group or rest in PLOTTED.get(kind, ())


class TensorBoardWriter:
    """Writes event files that TensorBoard reads.

    The folder is made with the first number, so that the writer may be there before the run.

    Args:
        folder: where the event files go; the run's own folder is a good place.
        resumed_at: the step from which a killed run goes on. TensorBoard then hides what an
            earlier event file of the folder holds from that step on.
        everything: write every number of the rows, not only those that people plot: losses and
            learning rate, the components with their standard errors, and chi_pos of the groups.

    Raises:
        ImportError: if tensorboardX is not installed (the extra "tensorboard").

    Example:
        >>> import tempfile
        >>> writer = TensorBoardWriter(tempfile.mkdtemp())
        >>> writer.write(0, {"train/loss": 2.5})
        >>> writer.close()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        resumed_at: int | None = None,
        everything: bool = False,
    ) -> None:
        module = import_extra("tensorboardX", extra="tensorboard", purpose="TensorBoardWriter")
        self._everything = everything
        self._start = lambda: module.SummaryWriter(
            str(folder), purge_step=resumed_at, flush_secs=10
        )
        self._writer = None if resumed_at is None else self._start()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record scalars by name, for one step."""
        check_count("step", step, least=0)
        self._writer = self._writer or self._start()
        for name, value in scalars.items():
            if self._everything or is_plotted(name):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is pending."""
        if self._writer is not None:
            self._writer.close()


class _ServiceWriter:
    """Logs to a run of a service that is called as W&B is.

    Args:
        start: starts the run there.
        at_once: whether it is started now, or with the first number.
    """

    def __init__(self, start: Callable[[], Any], *, at_once: bool) -> None:
        self._start = start
        self._run = start() if at_once else None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record scalars by name, for one step."""
        check_count("step", step, least=0)
        self._run = self._run or self._start()
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Finish the run there."""
        if self._run is not None:
            self._run.finish()


class WandbWriter(_ServiceWriter):
    """Logs to a run of Weights & Biases.

    Args:
        project: the project there.
        name: what the run is called there.
        config: what is shown as its configuration, for instance `run.config`.
        run_id: an id of your choice; a killed run that starts again with it goes on in the same
            run there. W&B keeps what was logged first for a step.
        folder: where W&B keeps its local files. Where it does not hold a run of this library yet,
            which has to find it empty, W&B starts with the first numbers.
        mode: "online", "offline" or "disabled"; None for what `WANDB_MODE` or W&B's settings say.

    Raises:
        ImportError: if wandb is not installed (the extra "wandb").
        ValueError: if `mode` is another word.

    Example:
        >>> writer = WandbWriter("scaling", mode="offline")  # doctest: +SKIP
    """

    def __init__(
        self,
        project: str,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        mode: str | None = None,
    ) -> None:
        modes = ("online", "offline", "disabled", None)
        require(mode in modes, "mode", expected=f"one of {modes}", got=repr(mode))
        wandb = import_extra("wandb", extra="wandb", purpose="WandbWriter")
        options = {
            "project": project,
            "name": name,
            "config": dict(config or {}),
            "id": run_id,
            "resume": "allow" if run_id is not None else None,
            "mode": mode,
        }

        def start() -> Any:
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)  # else W&B goes elsewhere
            return wandb.init(**options, dir=None if folder is None else str(folder))

        super().__init__(start, at_once=folder is None or (Path(folder) / CONFIG_FILE).exists())


class TrackioWriter(_ServiceWriter):
    """Logs to a run of trackio, which keeps its files in a folder of its own.

    Args:
        project: the project there.
        name: what the run is called there; a killed run that starts again with it goes on in the
            same run there. None: trackio makes one up.
        config: what is shown as its configuration, for instance `run.config`.

    Raises:
        ImportError: if trackio is not installed (the extra "trackio").

    Example:
        >>> writer = TrackioWriter("scaling", name="115K")  # doctest: +SKIP
    """

    def __init__(
        self,
        project: str,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        trackio = import_extra("trackio", extra="trackio", purpose="TrackioWriter")
        resume = "never" if name is None else "allow"
        options = {"name": name, "config": dict(config or {}), "resume": resume}
        super().__init__(lambda: trackio.init(project, **options), at_once=True)
