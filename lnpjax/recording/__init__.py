"""From a training loop of one's own to a run's folder, which `lnpjax plot` and `compare` read."""

from lnpjax.recording._recorder import Recorder

__all__ = ["Recorder"]
