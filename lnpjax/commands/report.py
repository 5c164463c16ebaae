"""`lnpjax report`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lnpjax._base.files import write_atomically
from lnpjax.commands._exit import Exit
from lnpjax.commands._files import open_to_read, warn_of_changed_rows
from lnpjax.commands._show import shown
from lnpjax.inspection import run_report
from lnpjax.inspection._folder import REPORT_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Put a run on one page: its curves, its settings, and the flags that were raised.

    The page holds everything that it shows, so that it can be sent to others. If lnpjax inspect RUN
    was called before, what it found is on the page as well.

    Args:
        run: The run folder.
        out: The file. None: RUN/report.html.
    """

    run: str
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        run = open_to_read(self.run)
        warn_of_changed_rows(run)
        file = run.path / REPORT_FILE if self.out is None else Path(self.out)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, run_report(run))
        print(shown(file.absolute()))
        return Exit.DONE
