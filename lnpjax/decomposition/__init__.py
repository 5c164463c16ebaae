"""The LNP decomposition of a loss change, and the norms that it needs."""

from lnpjax.decomposition._components import LNP, GroupLNP
from lnpjax.decomposition._estimators import Estimator, Exact, GlobalHutchinson, Hutchinson
from lnpjax.decomposition._measure import LNPMeasure, Normalization, lnp
from lnpjax.decomposition._samples import SampleComponents, SampleMeasure, sample_components
from lnpjax.decomposition._squared_norm import Estimate, squared_jacobian_norm

__all__ = [
    # the measurement
    "lnp",
    "LNP",
    "GroupLNP",
    "LNPMeasure",
    "Normalization",
    # sample by sample
    "sample_components",
    "SampleComponents",
    "SampleMeasure",
    # ways to estimate the squared norm of the Jacobian
    "Exact",
    "Hutchinson",
    "GlobalHutchinson",
    "Estimator",
    # the squared norm on its own
    "squared_jacobian_norm",
    "Estimate",
]
