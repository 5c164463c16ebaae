"""How a paper's experiment is reproduced: a preset, a resumable sweep, figures, judged claims."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from lnpjax._base.checks import require
from lnpjax._base.configs import decode
from lnpjax._base.files import write_atomically
from lnpjax.experiments._harness.claims import Claim, Need, Observation
from lnpjax.experiments._harness.sweep import (
    Sweep,
    SweepProgress,
    writing_alone,
)
from lnpjax.experiments._harness.tables import claims_json, claims_markdown
from lnpjax.runs import strict_json

Config = TypeVar("Config")
SMOKE = "smoke"
TOO_SMALL = Need("a preset that is large enough to tell anything", met=False, here=SMOKE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduction(Generic[Config]):
    """One experiment of a paper.

    Attributes:
        name: what the command line calls it.
        title: what it is, with the figures of the paper that it makes.
        paper: the paper's title.
        figures: which of its figures are made.
        presets: a config per size: "smoke" (seconds, for tests), "cpu" (minutes), "paper", and
            in some "long" (a night).
        num_units: how many units its sweep has, with the folder of data, if the user named one.
        measure: computes what is missing of the sweep; is also given the folder of data that the
            user named, or None. Whatever its results depend on is in the config.
        draw: draws the figures from the finished sweep into a folder.
        judge: the paper's claims, judged by the finished sweep, and what is only observed.
    """

    name: str
    title: str
    paper: str
    figures: Sequence[str]
    presets: Mapping[str, Config]
    num_units: Callable[[Config, Path | None], int]
    measure: Callable[[Config, Sweep, Path | None], None]
    draw: Callable[[Config, Sweep, Path], None]
    judge: Callable[[Config, Sweep], Sequence[Claim | Observation]]


class Reproduced(NamedTuple):
    """Where a reproduction lies, which it is, and what it found."""

    folder: Path
    title: str
    judged: Sequence[Claim | Observation]


def reproduce(
    experiment: Reproduction[Any],
    preset: str,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    progress: SweepProgress | None = None,
    only: str | None = None,
    merge: Sequence[str | os.PathLike[str]] = (),
) -> Reproduced:
    """Run an experiment, or what is left of it, and write what it found.

    The folder then holds `config.json`, `units/` (what each unit measured), `results.jsonl` and
    `arrays.npz` (all of it, once more), `figures/*.png`, `claims.md` and `claims.json`.

    Args:
        experiment: the experiment.
        preset: which of its sizes.
        out: the folder; one that holds a part of the same sweep is continued.
        data: a folder of data, for experiments that need one.
        progress: is told of every unit; silent by default.
        only: compute the units whose names match this pattern, and judge nothing: several
            processes, each with a folder of its own, so share the work. None for all.
        merge: folders of the same preset, as runs with `only` left them, whose units are taken
            over before the rest is computed.

    Returns:
        The folder and the claims; no claims with `only`.

    Raises:
        FileNotFoundError: if a folder of `merge` holds no sweep.
        ValueError: if there is no such preset, the folder or one of `merge` holds another sweep, or
            no unit matches `only`.
        RuntimeError: if another process is writing to the folder.
        OSError: if a file of the folder is a link.
        ImportError: matplotlib is not installed (the extra "run").
    """
    config = _config_of(experiment, preset)
    progress = SweepProgress() if progress is None else progress
    with writing_alone(out):
        sweep = Sweep(out, config, progress=progress, only=only)
        for part in merge:
            sweep.take_over(part)
        folder = None if data is None else Path(data)
        progress.start(experiment.num_units(config, folder))
        try:
            experiment.measure(config, sweep, folder)
        finally:
            progress.stop()
        if only is not None:
            names = sweep.asked_for
            expected = f"a pattern that matches one of {', '.join(names)}"
            require(any(map(sweep.wants, names)), "only", expected=expected, got=repr(only))
            return Reproduced(sweep.folder, _title(experiment, preset), [])
        sweep.write_results()
        return _concluded(experiment, preset, config, sweep)


def judge_again(
    experiment: Reproduction[Any], preset: str, folder: str | os.PathLike[str]
) -> Reproduced:
    """Judge and draw a finished reproduction again, from its rows, without any computation.

    Writes to the folder what `reproduce` concludes, and needs it for itself as long.

    Args:
        experiment: the experiment.
        preset: which of its sizes; the config is that of the folder.
        folder: as `reproduce` left it; `units/` is not needed.

    Returns:
        The folder and the claims.

    Raises:
        FileNotFoundError: if the folder holds no config or no rows.
        ValueError: if there is no such preset, or the config is another experiment's.
        RuntimeError: if another process is writing to the folder.
        OSError: if a file of the folder is a link.
        ImportError: matplotlib is not installed (the extra "run").
    """
    config, sweep = stored(experiment, preset, folder)
    with writing_alone(folder):
        return _concluded(experiment, preset, config, sweep)


def stored(
    experiment: Reproduction[Any], preset: str, folder: str | os.PathLike[str]
) -> tuple[Any, Sweep]:
    """Return the config and the finished sweep that a folder of results holds.

    Args:
        experiment: the experiment.
        preset: which of its sizes.
        folder: as for `judge_again`.

    Raises:
        FileNotFoundError: if the folder holds no config or no rows.
        ValueError: if there is no such preset, or the config is another experiment's.
    """
    kind = type(_config_of(experiment, preset))
    file = Path(folder) / "config.json"
    config = decode(kind, json.loads(file.read_text()), source=str(file))
    sweep = Sweep(folder, config)
    sweep.load()
    return config, sweep


def judged(
    experiment: Reproduction[Any], preset: str, config: Any, sweep: Sweep
) -> list[Claim | Observation]:
    """Return the claims of an experiment; those of a smoke preset lack size, whatever they found.

    Args:
        experiment: the experiment.
        preset: which of its sizes.
        config: of that size.
        sweep: finished.
    """
    entries = experiment.judge(config, sweep)
    if preset != SMOKE:
        return list(entries)
    return [
        dataclasses.replace(entry, needs=(TOO_SMALL, *entry.needs))
        if isinstance(entry, Claim)
        else entry
        for entry in entries
    ]


def _config_of(experiment: Reproduction[Any], preset: str) -> Any:
    presets = ", ".join(experiment.presets)
    require(preset in experiment.presets, "preset", expected=f"one of {presets}", got=repr(preset))
    return experiment.presets[preset]


def _title(experiment: Reproduction[Any], preset: str) -> str:
    return f"{experiment.title}, preset {preset}"


def _concluded(experiment: Reproduction[Any], preset: str, config: Any, sweep: Sweep) -> Reproduced:
    """Draw the figures, judge the claims, and write both."""
    figures = sweep.folder / "figures"
    figures.mkdir(exist_ok=True)
    experiment.draw(config, sweep, figures)
    entries = judged(experiment, preset, config, sweep)
    title = _title(experiment, preset)
    about = {"experiment": experiment.name, "preset": preset, "title": title}
    values = strict_json(about | claims_json(entries), "claims", indent=1)
    write_atomically(sweep.folder / "claims.json", values + "\n")
    write_atomically(sweep.folder / "claims.md", claims_markdown(title, entries))
    return Reproduced(sweep.folder, title, entries)
