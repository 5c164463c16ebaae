"""The explicit empirical NTK: its entries, its modes, and how it moves."""

from lnpjax.kernel._alignment import (
    Misalignment,
    eigenvector_misalignment,
    kernel_target_alignment,
    label_alignment,
)
from lnpjax.kernel._dense import (
    dense_kernel,
    dense_sample_kernel,
    dense_trace,
    expected_trace,
    ntk_scales,
)
from lnpjax.kernel._diagonal import entk_diagonal
from lnpjax.kernel._dynamics import adaptation_rate, trace_ratio
from lnpjax.kernel._entk import Backend, Method, entk, entk_groups, normalized_kernel, trace_outputs
from lnpjax.kernel._mode_steps import ModeStep, project_update, step_along_gradient
from lnpjax.kernel._modes import Modes, eigenmodes, mode_pairs
from lnpjax.kernel._operator import EntkOperator, entk_operator

__all__ = [
    # the kernel
    "entk",
    "entk_groups",
    "entk_diagonal",
    "entk_operator",
    "EntkOperator",
    "Backend",
    "Method",
    "normalized_kernel",
    "trace_outputs",
    # its eigenmodes
    "eigenmodes",
    "Modes",
    "mode_pairs",
    # steps along eigenmodes
    "step_along_gradient",
    "ModeStep",
    "project_update",
    # where it points
    "kernel_target_alignment",
    "label_alignment",
    "eigenvector_misalignment",
    "Misalignment",
    # how it moves
    "adaptation_rate",
    "trace_ratio",
    # dense networks, from their layers
    "dense_kernel",
    "dense_sample_kernel",
    "dense_trace",
    "expected_trace",
    "ntk_scales",
]
