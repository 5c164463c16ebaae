"""The spectra of activations, of gradients and of weights (*Spectral Lens*)."""

from lnpjax.lens._activations import (
    ActivationSpectra,
    activation_spectra,
    normalized_states,
    stream_covariances,
)
from lnpjax.lens._covariance import (
    Covariance,
    CovarianceState,
    covariance_finalize,
    covariance_float64,
    covariance_init,
    covariance_merge,
    covariance_spectrum,
    covariance_update,
)
from lnpjax.lens._gradients import (
    GradientSpectra,
    attention_probes,
    gradient_singular_values,
    gradient_spectra,
    weight_spectra,
)
from lnpjax.lens._gram import gradient_gram, per_sample_gradients
from lnpjax.lens._hidden_states import linen_hidden_states, nnx_hidden_states

__all__ = [
    # activations
    "activation_spectra",
    "ActivationSpectra",
    "stream_covariances",
    # hidden states of Flax modules
    "nnx_hidden_states",
    "linen_hidden_states",
    "normalized_states",
    # covariances of streams
    "Covariance",
    "CovarianceState",
    "covariance_init",
    "covariance_update",
    "covariance_merge",
    "covariance_finalize",
    "covariance_float64",
    "covariance_spectrum",
    # gradients and weights
    "gradient_spectra",
    "GradientSpectra",
    "weight_spectra",
    "per_sample_gradients",
    "gradient_gram",
    "gradient_singular_values",
    "attention_probes",
]
