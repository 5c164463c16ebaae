"""What a network is learning from, while it trains."""

from lnpjax._version import __version__
from lnpjax.adapters import from_linen, from_nnx
from lnpjax.components import LNP, GroupLNP
from lnpjax.decomposition import LNPMeasure, lnp
from lnpjax.estimators import Exact, GlobalHutchinson, Hutchinson
from lnpjax.jacobian import Linearization, linearize
from lnpjax.parameters import by_depth
from lnpjax.schedule import Windows, log_windows
from lnpjax.status import Status, describe_status
from lnpjax.trace import Estimate, squared_jacobian_norm
from lnpjax.training import InstrumentedStep, Record, instrument

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
