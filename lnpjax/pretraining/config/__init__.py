"""The options of a pre-training run, as the command line shows them, and their checks.

The text under each field is its help on the command line. A field whose default is None is filled
in by `PretrainConfig.resolve` when the data are known, so that a run's `config.json` leaves nothing
open.
"""

from lnpjax.models.presets import PRESETS
from lnpjax.pretraining.config.data import STDLIB_CONTEXT_LENGTH, DataOptions
from lnpjax.pretraining.config.measurement import MOST_WINDOWS_PER_DECADE, MeasurementOptions
from lnpjax.pretraining.config.model import CLASSIFIERS, SIZES, ModelOptions
from lnpjax.pretraining.config.networks import ModelConfig
from lnpjax.pretraining.config.recipes import RECIPES, RecipeName, recipe_of
from lnpjax.pretraining.config.run import (
    ADDED_LATER,
    MOST_LAYERS,
    MOST_PARAMETERS,
    PretrainConfig,
)
from lnpjax.pretraining.config.start import StartOptions
from lnpjax.pretraining.config.training import (
    LARGEST_SEED,
    LEARNING_RATES,
    MOST_STEPS,
    TrainingOptions,
)

__all__ = [
    # the options
    "PretrainConfig",
    "ModelOptions",
    "DataOptions",
    "TrainingOptions",
    "MeasurementOptions",
    "StartOptions",
    "ModelConfig",
    # what they are checked against, and default to
    "ADDED_LATER",
    "CLASSIFIERS",
    "LARGEST_SEED",
    "LEARNING_RATES",
    "MOST_LAYERS",
    "MOST_PARAMETERS",
    "MOST_STEPS",
    "MOST_WINDOWS_PER_DECADE",
    "PRESETS",
    "RECIPES",
    "RecipeName",
    "SIZES",
    "STDLIB_CONTEXT_LENGTH",
    "recipe_of",
]
