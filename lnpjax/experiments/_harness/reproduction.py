"""How a paper's experiment is reproduced: a preset, a resumable sweep, figures, judged claims."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from lnpjax._base.checks import require
from lnpjax._base.files import write_atomically
from lnpjax.experiments._harness.claims import Claim, claims_markdown
from lnpjax.experiments._harness.sweep import Sweep, SweepProgress

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduction(Generic[Config]):
    """One experiment of a paper.

    Attributes:
        name: what the command line calls it.
        title: what it is, with the figures of the paper that it makes.
        paper: the paper's title.
        figures: which of its figures are made.
        presets: a config per size: "smoke" (seconds, for tests), "cpu" (minutes), "paper".
        num_units: how many units its sweep has, with the folder of data, if the user named one.
        measure: computes what is missing of the sweep; is also given the folder of data that the
            user named, or None. Whatever its results depend on is in the config.
        draw: draws the figures from the finished sweep into a folder.
        judge: the paper's claims, judged by the finished sweep.
    """

    name: str
    title: str
    paper: str
    figures: Sequence[str]
    presets: Mapping[str, Config]
    num_units: Callable[[Config, Path | None], int]
    measure: Callable[[Config, Sweep, Path | None], None]
    draw: Callable[[Config, Sweep, Path], None]
    judge: Callable[[Config, Sweep], Sequence[Claim]]


class Reproduced(NamedTuple):
    """Where a reproduction lies and what it found."""

    folder: Path
    claims: Sequence[Claim]


def reproduce(
    experiment: Reproduction[Any],
    preset: str,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    progress: SweepProgress | None = None,
) -> Reproduced:
    """Run an experiment, or what is left of it, and write what it found.

    The folder then holds `config.json`, `units/` (what each unit measured), `results.jsonl` (all
    rows), `figures/*.png`, and `claims.md`.

    Args:
        experiment: the experiment.
        preset: which of its sizes.
        out: the folder; one that holds a part of the same sweep is continued.
        data: a folder of data, for experiments that need one.
        progress: is told of every unit; silent by default.

    Returns:
        The folder and the claims.

    Raises:
        ValueError: if there is no such preset, or the folder holds another sweep.
        ImportError: matplotlib is not installed (the extra "run").
    """
    presets = ", ".join(experiment.presets)
    require(preset in experiment.presets, "preset", expected=f"one of {presets}", got=repr(preset))
    config = experiment.presets[preset]
    progress = SweepProgress() if progress is None else progress
    sweep = Sweep(out, config, progress=progress)
    folder = None if data is None else Path(data)
    progress.start(experiment.num_units(config, folder))
    try:
        experiment.measure(config, sweep, folder)
    finally:
        progress.stop()
    sweep.write_rows()
    figures = sweep.folder / "figures"
    figures.mkdir(exist_ok=True)
    experiment.draw(config, sweep, figures)
    claims = experiment.judge(config, sweep)
    title = f"{experiment.title} (preset {preset})"
    write_atomically(sweep.folder / "claims.md", claims_markdown(title, claims))
    return Reproduced(sweep.folder, claims)
