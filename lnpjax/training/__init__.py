"""Measuring while training: which steps are measured, and a transform of the training step."""

from lnpjax.training._accumulation import accumulated
from lnpjax.training._nnx import InstrumentedNnxStep, instrument_nnx
from lnpjax.training._schedules import (
    Every,
    Schedule,
    Windows,
    at_steps,
    every,
    log_windows,
    step_number,
)
from lnpjax.training._steps import InstrumentedStep, Measure, Record, TrainStep, instrument

__all__ = [
    # the transform
    "instrument",
    "instrument_nnx",
    "accumulated",
    "InstrumentedStep",
    "InstrumentedNnxStep",
    "Record",
    "TrainStep",
    "Measure",
    # schedules
    "log_windows",
    "every",
    "at_steps",
    "Windows",
    "Every",
    "Schedule",
    "step_number",
]
