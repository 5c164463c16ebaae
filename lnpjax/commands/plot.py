"""`lnpjax plot`."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.commands._exit import Exit
from lnpjax.commands._files import figure_file, open_to_read, warn_of_changed_rows
from lnpjax.commands._show import shown
from lnpjax.plotting import plot_components, plot_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the figures of a run again, or several runs in one figure.

    Args:
        runs: Run folders. The figures of a single run go into its own folder.
        out: Where the figure of several runs goes; the suffix decides the format. None:
            comparison.png.
    """

    runs: tuple[str, ...]
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        require(bool(self.runs), "RUN", expected="at least one run folder", got="none")
        several = len(self.runs) > 1 or self.out is None
        require(several, "--out", expected="several run folders with it", got="one")
        out = figure_file(self.out or "comparison.png")
        runs = [open_to_read(folder) for folder in self.runs]
        warn_of_changed_rows(*runs)
        if len(runs) == 1:
            print(shown(plot_run(runs[0])))
        else:
            plot_components(runs, out)
            print(shown(out))
        return Exit.DONE
