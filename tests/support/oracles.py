"""Slow, plain and independent: what every measurement is compared with.

Everything here starts from the dense Jacobian of the whole batch (`jax.jacrev`, no `vmap` over
samples), and from there on is numpy in float64.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import zoo


def dense_jacobian(apply_fn, params, inputs, selected=None):
    """J as a matrix (B m, P), sample-major, with the column range of every leaf."""
    leaves, treedef = jax.tree.flatten(params)
    selected = [True] * len(leaves) if selected is None else selected

    def apply_selected(chosen):
        chosen = iter(chosen)
        merged = [next(chosen) if s else leaf for leaf, s in zip(leaves, selected, strict=True)]
        return apply_fn(jax.tree.unflatten(treedef, merged), inputs).reshape(-1)

    chosen = [leaf for leaf, s in zip(leaves, selected, strict=True) if s]
    blocks = jax.jit(jax.jacrev(apply_selected))(chosen)
    return [np.asarray(block, np.float64).reshape(len(block), -1) for block in blocks]


def dense_blocks(name):
    """The dense Jacobian of a zoo model on its batch A, by leaf: (samples, outputs, leaf size)."""
    return _dense_blocks(name, jax.config.jax_enable_x64)


@functools.cache
def _dense_blocks(name, x64):
    case = zoo.build(name)
    num_samples = len(jax.tree.leaves(case.batch_a[0])[0])
    blocks = dense_jacobian(case.apply_fn, case.params, case.batch_a[0], case.selected)
    return [block.reshape(num_samples, -1, block.shape[1]) for block in blocks]


def output_gradient(apply_fn, loss_fn, params, inputs, targets):
    def gradient(params, inputs, targets):
        return jax.grad(loss_fn)(apply_fn(params, inputs), targets)

    return np.asarray(jax.jit(gradient)(params, inputs, targets), np.float64).reshape(-1)


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


def sample_kernels(blocks):
    """The kernel of each sample alone, for every leaf of `dense_blocks`: (leaf, sample, m, m)."""
    return np.stack([np.einsum("iap,ibp->iab", block, block) for block in blocks])


def batch_kernels(blocks):
    """The kernel of the batch, for every leaf of `dense_blocks`: (leaf, 1, B m, B m)."""
    rows = [block.reshape(-1, block.shape[2]) for block in blocks]
    return np.stack([(row @ row.T)[None] for row in rows])


def rademacher_covariance(kernels, num_probes):
    """Covariance between ``sum_i mean_probes v^T K_i v`` of several kernels (block, row, m, m).

    ``Cov(v^T K v, v^T L v) = 2 (<K, L> - <diag K, diag L>)`` for random signs v.
    Rows draw their own.
    """
    diagonals = np.einsum("giaa->gia", kernels)
    overlaps = np.einsum("giab,hiab->gh", kernels, kernels)
    return 2 * (overlaps - np.einsum("gia,hia->gh", diagonals, diagonals)) / num_probes


def single_probe_covariance(kernels):
    """Expected covariance estimate at one probe per sample: the truth plus the spread of traces.

    For draws r_i of mean t_i and covariance C_i, ``n/(n-1) sum_i (r_i - r)(r_i - r)^T`` has mean
    ``sum_i C_i + n/(n-1) sum_i (t_i - t)(t_i - t)^T``.
    """
    traces = np.einsum("giaa->gi", kernels)
    num_samples = traces.shape[1]
    centred = traces - traces.mean(axis=1, keepdims=True)
    spread = num_samples / (num_samples - 1) * centred @ centred.T
    return rademacher_covariance(kernels, 1) + spread


def assert_unbiased(draws, expected, variance):
    """The mean of independent draws lies within four of its true standard errors of `expected`."""
    draws = np.asarray(draws, np.float64)
    error = abs(draws.mean() - expected)
    rounding = 1e-9 * abs(expected)
    assert error <= 4 * np.sqrt(variance / len(draws)) + rounding, (draws.mean(), expected)


def assert_mean(draws, expected, scale):
    """As `assert_unbiased`, entry by entry, with the draws' own spread; `scale` is what rounds."""
    draws = np.asarray(draws, np.float64)
    error = np.abs(draws.mean(axis=0) - expected)
    noise = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert np.all(error <= 4 * noise + 1e-9 * np.abs(scale)), (draws.mean(axis=0), expected)
