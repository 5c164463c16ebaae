"""Where a run's scalars go besides its own folder: TensorBoard and Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from lnpjax._base.checks import check_count, import_extra, require
from lnpjax.runs._rows import Row, flatten


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


class TensorBoardWriter:
    """Writes event files that TensorBoard reads.

    Args:
        folder: where the event files go; the run's own folder is a good place.
        resumed_at: the step from which a killed run goes on. TensorBoard then hides what an
            earlier event file of the folder holds from that step on.

    Raises:
        ImportError: if tensorboardX is not installed (the extra "tensorboard").

    Example:
        >>> import tempfile
        >>> writer = TensorBoardWriter(tempfile.mkdtemp())
        >>> writer.write(0, {"train/loss": 2.5})
        >>> writer.close()
    """

    def __init__(self, folder: str | os.PathLike[str], *, resumed_at: int | None = None) -> None:
        module = import_extra("tensorboardX", extra="tensorboard", purpose="TensorBoardWriter")
        self._writer = module.SummaryWriter(str(folder), purge_step=resumed_at, flush_secs=10)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record scalars by name, for one step."""
        check_count("step", step, least=0)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()


class WandbWriter:
    """Logs to a run of Weights & Biases.

    Args:
        project: the project there.
        name: what the run is called there.
        config: what is shown as its configuration, for instance `run.config`.
        run_id: an id of your choice; a killed run that starts again with it goes on in the same
            run there. W&B keeps what was logged first for a step.
        folder: where W&B keeps its local files.
        mode: "online", "offline" or "disabled".

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
        mode: str = "online",
    ) -> None:
        modes = ("online", "offline", "disabled")
        require(mode in modes, "mode", expected=f"one of {modes}", got=repr(mode))
        wandb = import_extra("wandb", extra="wandb", purpose="WandbWriter")
        self._run = wandb.init(
            project=project,
            name=name,
            config=dict(config or {}),
            id=run_id,
            resume="allow" if run_id is not None else None,
            dir=None if folder is None else str(folder),
            mode=mode,
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record scalars by name, for one step."""
        check_count("step", step, least=0)
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()
