"""Trained models from the files that others have written, and back."""

from lnpjax.models.checkpoints.loading import LoadedModel, load_checkpoint
from lnpjax.models.checkpoints.saving import save_checkpoint

__all__ = ["LoadedModel", "load_checkpoint", "save_checkpoint"]
