"""Everything cheap against everything exact, on one network."""

from lnpjax.validation._reference_models import (
    ModelName,
    OutputSpace,
    Pair,
    run_checkpoint,
    small_network,
)
from lnpjax.validation._validate import Finding, Subject, Validation, validate

__all__ = [
    # the check
    "validate",
    "Validation",
    "Subject",
    "Finding",
    # networks to check
    "small_network",
    "run_checkpoint",
    "ModelName",
    "OutputSpace",
    "Pair",
]
