"""From a module of Flax or PyTorch to the pair ``(apply_fn, params)`` that the measures take.

What a module holds besides parameters, such as the statistics of batch normalisation, is its state.
It is frozen at its present value, or returned as well and then given to the measures with every
call: ``measure(params, batch, key=key, state=state)``.
"""

from lnpjax.adapters._flax import (
    ModuleParts,
    fit_state,
    from_linen,
    from_nnx,
    naming_misfits,
    snapshot,
    split_module,
    split_variables,
)
from lnpjax.adapters._statistics import statistics_of_batch
from lnpjax.adapters._torch import from_torch

__all__ = [
    # modules
    "from_nnx",
    "from_linen",
    "from_torch",
    # their state
    "statistics_of_batch",
    "snapshot",
    "fit_state",
    # taken apart
    "split_module",
    "ModuleParts",
    "split_variables",
    "naming_misfits",
]
