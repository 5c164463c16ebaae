"""Pre-training of a Llama that is measured on the way: `lnpjax train`."""

from lnpjax.pretraining.config import (
    DataOptions,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    StartOptions,
    TrainingOptions,
)
from lnpjax.pretraining.folders import create_run, load_same_data, open_run, read_model
from lnpjax.pretraining.loop import Outcome, pretrain
from lnpjax.pretraining.loss import cross_entropy
from lnpjax.pretraining.program import Experiment
from lnpjax.pretraining.reading import LoadedRun, load_run

__all__ = [
    # what is set
    "PretrainConfig",
    "ModelOptions",
    "DataOptions",
    "TrainingOptions",
    "MeasurementOptions",
    "StartOptions",
    # what runs
    "Experiment",
    "cross_entropy",
    "pretrain",
    "Outcome",
    # its folder
    "create_run",
    "open_run",
    "read_model",
    "load_same_data",
    # for people to look at
    "load_run",
    "LoadedRun",
]
