"""The Jacobian of a network on a batch: the only place that differentiates networks."""

from lnpjax.jacobian._contract import ApplyFn, Batch, LossFn
from lnpjax.jacobian._linearize import Linearization, linearize
from lnpjax.jacobian._observables import observable, residual, token_surprisal
from lnpjax.jacobian._outputs import OutputSubset, join_outputs, select_outputs
from lnpjax.jacobian._split import SplitModel

__all__ = [
    # the operator
    "linearize",
    "Linearization",
    "SplitModel",
    # other outputs than the network's own
    "observable",
    "residual",
    "token_surprisal",
    "select_outputs",
    "join_outputs",
    "OutputSubset",
    # what every measure takes
    "ApplyFn",
    "LossFn",
    "Batch",
]
