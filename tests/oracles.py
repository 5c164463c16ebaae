"""Slow, plain and independent: what every measurement is compared with.

Everything here starts from the dense Jacobian of the whole batch (`jax.jacrev`, no `vmap` over samples),
and from there on is numpy in float64.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np


def dense_jacobian(apply_fn, params, inputs, selected=None):
    """J as a matrix (B m, P), sample-major, with the column range of every leaf."""
    leaves, treedef = jax.tree.flatten(params)
    selected = [True] * len(leaves) if selected is None else selected

    def apply_selected(chosen):
        chosen = iter(chosen)
        merged = [next(chosen) if s else leaf for leaf, s in zip(leaves, selected, strict=True)]
        return apply_fn(jax.tree.unflatten(treedef, merged), inputs).reshape(-1)

    chosen = [leaf for leaf, s in zip(leaves, selected, strict=True) if s]
    blocks = jax.jacrev(apply_selected)(chosen)
    return [np.asarray(block, np.float64).reshape(len(block), -1) for block in blocks]


def output_gradient(apply_fn, loss_fn, params, inputs, targets):
    outputs = apply_fn(params, inputs)
    return np.asarray(jax.grad(loss_fn)(outputs, targets), np.float64).reshape(-1)


@dataclasses.dataclass
class DenseLNP:
    delta_loss: float
    chi_loss: float
    chi_net: float
    chi_pos: float
    deltas: np.ndarray  # per leaf
    norms_a: np.ndarray  # |J_A|_F^2 per leaf
    norms_b: np.ndarray


def dense_lnp(apply_fn, loss_fn, params, batch_a, batch_b, *, selected=None, factor=None):
    """Equations 16, 24 and 29 from dense Jacobians; `factor` defaults to sqrt(|A| |B|)."""
    jac_a = dense_jacobian(apply_fn, params, batch_a[0], selected)
    jac_b = dense_jacobian(apply_fn, params, batch_b[0], selected)
    g_a = output_gradient(apply_fn, loss_fn, params, *batch_a)
    g_b = output_gradient(apply_fn, loss_fn, params, *batch_b)
    sizes = [len(jax.tree.leaves(batch[0])[0]) for batch in (batch_a, batch_b)]
    factor = np.sqrt(sizes[0] * sizes[1]) if factor is None else factor
    deltas = np.array([(g_b @ b) @ (g_a @ a) for a, b in zip(jac_a, jac_b, strict=True)])
    norms_a = np.array([np.sum(a**2) for a in jac_a])
    norms_b = np.array([np.sum(b**2) for b in jac_b])
    chi_loss = factor * np.linalg.norm(g_a) * np.linalg.norm(g_b)
    chi_net = np.sqrt(norms_a.sum() * norms_b.sum()) / factor
    delta = deltas.sum()
    return DenseLNP(
        delta, chi_loss, chi_net, delta / (chi_loss * chi_net), deltas, norms_a, norms_b
    )


def dense_kernel(apply_fn, params, inputs, selected=None):
    return sum(block @ block.T for block in dense_jacobian(apply_fn, params, inputs, selected))


def hutchinson_variance(apply_fn, params, inputs, num_probes):
    """Exact variance of the per-sample Rademacher estimate: 2 sum_i (|T_i|_F^2 - sum diag^2) / M.

    T_i is the kernel of sample i alone. Returns the variance and the per-sample traces.
    """
    kernel = dense_kernel(apply_fn, params, inputs)
    num_samples = len(jax.tree.leaves(inputs)[0])
    m = len(kernel) // num_samples
    blocks = [kernel[i * m : (i + 1) * m, i * m : (i + 1) * m] for i in range(num_samples)]
    variances = [2 * (np.sum(b**2) - np.sum(np.diag(b) ** 2)) / num_probes for b in blocks]
    return np.sum(variances), np.array([np.trace(b) for b in blocks])


def global_hutchinson_variance(apply_fn, params, inputs, num_probes):
    kernel = dense_kernel(apply_fn, params, inputs)
    return 2 * (np.sum(kernel**2) - np.sum(np.diag(kernel) ** 2)) / num_probes
