"""`lnpjax reproduce`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from lnpjax import experiments
from lnpjax._base.checks import import_extra, require
from lnpjax.commands._show import console, shown
from lnpjax.experiments._harness.reproduction import judge_again, reproduce
from lnpjax.experiments._harness.sweep import terminal_progress
from lnpjax.experiments._harness.tables import claims_table


def _positional() -> Any:
    """Mark an argument that needs no name although it has a default; read by tyro alone."""
    tyro: Any = import_extra("tyro", extra="run", purpose="the command line")
    return tyro.conf.Positional[str].__metadata__[0]


def _listed() -> Any:
    """Tell what experiments there are, as their folders do."""
    tyro: Any = import_extra("tyro", extra="run", purpose="the command line")
    lines = [f"- {name}: {summary}." for name, summary in experiments.summaries().items()]
    text = "\n".join(["Which one; with --judge, that of the folder.", *lines])
    return tyro.conf.arg(help=text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Run an experiment of a paper again, and judge what it claims by what was measured.

    Every claim is judged by an estimate, its interval, and the region that must hold it: it holds,
    does not hold, cannot be told, or the set-up falls short of what the paper's claim needs. A run
    that was stopped continues where it was when it is started again. Figures, rows and the claims
    go to the folder that --out names.

    Args:
        experiment: Which one, by the name in `lnpjax.experiments.FOLDERS`.
        preset: smoke ends in seconds and shows that it works; cpu in minutes on two cores, smaller
            than the paper; long, where there is one, in a night; paper has the paper's sizes.
        data: A folder with folders mnist, fashion_mnist and cifar10 (the files as distributed) for
            the experiments that learn images. None: scikit-learn's digits, which need no download.
        out: A folder for the results. None: reproductions/EXPERIMENT-PRESET.
        judge: A folder of finished results, whose claims are judged and whose figures are drawn
            again from its rows, without any computation.
        only: Compute the units whose names match this pattern (such as 'stories-*'), and judge
            nothing, so that several processes share the work, each with its own --out. None: all.
        merge: Folders that runs with --only left, whose units are taken over into --out.
    """

    experiment: Annotated[str, _positional(), _listed()] = ""
    preset: Literal["smoke", "cpu", "long", "paper"] = "cpu"
    data: str | None = None
    out: str | None = None
    judge: str | None = None
    only: str | None = None
    merge: tuple[str, ...] = ()

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        name, preset = self.experiment, self.preset
        if self.judge is not None:
            about = json.loads((Path(self.judge) / "claims.json").read_text())
            name, preset = name or about["experiment"], about["preset"]
        require(
            name in experiments.FOLDERS,
            "EXPERIMENT",
            expected=f"one of {', '.join(experiments.FOLDERS)}",
            got=repr(name),
        )
        experiment = experiments.experiment(name)
        if self.judge is not None:
            done = judge_again(experiment, preset, self.judge)
        else:
            out = f"reproductions/{name}-{preset}" if self.out is None else self.out
            done = reproduce(
                experiment,
                preset,
                out,
                data=self.data,
                progress=terminal_progress(),
                only=self.only,
                merge=self.merge,
            )
        if self.judge is None and self.only is not None:
            print(f"units {shown(done.folder)}")
            return 0
        console().print(claims_table(done.title, done.judged))
        print(f"results {shown(done.folder)}")
        return 0
