"""A run on disk: its rows, its checkpoints, and what a person sees of it."""

from lnpjax._base.reporting import Reporter
from lnpjax.runs._lines import strict_json
from lnpjax.runs._reporters import (
    BarReporter,
    LineReporter,
    NotebookReporter,
    terminal_reporter,
)
from lnpjax.runs._rows import Kind, Row, columns, differences, flatten, training_flops
from lnpjax.runs._run import Checkpoint, Run
from lnpjax.runs._smoothing import exponential_moving_average
from lnpjax.runs._summary import MeasuredSpectra, RunSummary, read_run
from lnpjax.runs._table import summary_table
from lnpjax.runs._writers import (
    TensorBoardWriter,
    TrackioWriter,
    WandbWriter,
    WriteFunction,
    Writer,
)

__all__ = [
    # the folder
    "Run",
    "Checkpoint",
    # rows
    "Row",
    "columns",
    "differences",
    "flatten",
    "training_flops",
    "strict_json",
    # elsewhere
    "Writer",
    "TensorBoardWriter",
    "WandbWriter",
    "TrackioWriter",
    "WriteFunction",
    # progress
    "Reporter",
    "LineReporter",
    "BarReporter",
    "NotebookReporter",
    "terminal_reporter",
    "summary_table",
    # read again
    "read_run",
    "RunSummary",
    "MeasuredSpectra",
    "Kind",
    "exponential_moving_average",
]
