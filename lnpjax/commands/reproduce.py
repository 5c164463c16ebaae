"""`lnpjax reproduce`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from lnpjax import experiments
from lnpjax._base.checks import import_extra, require
from lnpjax.commands._show import shown
from lnpjax.experiments._harness.claims import claims_table
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments._harness.sweep import terminal_progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Run an experiment of a paper again, and set what it claims beside what was measured.

    Every claim is judged by a rule that is written down with it: holds, does not hold, or cannot
    tell. A run that was stopped continues where it was when it is started again. Figures, rows and
    the claims go to the folder that --out names.

    Args:
        experiment: Which one.
            - random-features: power-law data (Spectral Reach, Fig. 3).
            - ntk-model-scaling: wider dense networks on images (NTK Lens, Figs. 1 to 3, 5, 6, 8).
            - ntk-data-scaling: larger training sets (NTK Lens, Figs. 1, 2, 5, 6).
            - noise-scaling: classes replaced by noisy copies of others (NTK Lens, Fig. 4, 7).
            - spectral-lens-toy: modular arithmetic (Spectral Lens, Figs. 4 and 11).
        preset: smoke ends in seconds and shows that it works; cpu in minutes on two cores, smaller
            than the paper; paper has the paper's sizes.
        data: A folder with folders mnist, fashion_mnist and cifar10 (the files as distributed) for
            the experiments that learn images. None: scikit-learn's digits, which need no download.
        out: A folder for the results. None: reproductions/EXPERIMENT-PRESET.
    """

    experiment: str
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    data: str | None = None
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        known = ", ".join(experiments.FOLDERS)
        require(
            self.experiment in experiments.FOLDERS,
            "EXPERIMENT",
            expected=f"one of {known}",
            got=repr(self.experiment),
        )
        experiment = experiments.experiment(self.experiment)
        name = f"{self.experiment}-{self.preset}"
        folder = Path("reproductions") / name if self.out is None else Path(self.out)
        found = reproduce(
            experiment, self.preset, folder, data=self.data, progress=terminal_progress()
        )
        console = import_extra("rich.console", extra="run", purpose="the table of claims").Console()
        console.print(claims_table(f"{experiment.title}, preset {self.preset}", found.claims))
        print(f"results {shown(found.folder)}")
        return 0
