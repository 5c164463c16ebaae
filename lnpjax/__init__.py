"""What a network is learning from, while it trains.

Start with `lnp`, which makes a measurement, and `instrument`, which puts it into a training step.
"""

import warnings as _warnings

import jaxlib as _jaxlib

from lnpjax._version import __version__
from lnpjax.adapters import from_linen, from_nnx
from lnpjax.closed_forms import SplitModel
from lnpjax.components import LNP, GroupLNP
from lnpjax.decomposition import LNPMeasure, lnp
from lnpjax.estimators import Exact, GlobalHutchinson, Hutchinson
from lnpjax.jacobian import Linearization, linearize
from lnpjax.parameters import by_depth
from lnpjax.schedule import Windows, log_windows
from lnpjax.status import Status, describe_status
from lnpjax.trace import Estimate, squared_jacobian_norm
from lnpjax.training import InstrumentedStep, Record, instrument

if _jaxlib.__version__ == "0.10.2":
    _warnings.warn(
        "jaxlib 0.10.2 silently computes wrong numbers on the CPU for vmapped products followed by "
        "a reduction (jax issue 39103), which is what per-sample norms are. Use another release: "
        "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'",
        RuntimeWarning,
        stacklevel=2,
    )

__all__ = [
    "LNP",
    "Estimate",
    "Exact",
    "GlobalHutchinson",
    "GroupLNP",
    "Hutchinson",
    "InstrumentedStep",
    "LNPMeasure",
    "Linearization",
    "Record",
    "SplitModel",
    "Status",
    "Windows",
    "__version__",
    "by_depth",
    "describe_status",
    "from_linen",
    "from_nnx",
    "instrument",
    "linearize",
    "lnp",
    "log_windows",
    "squared_jacobian_norm",
]
