"""Norms of per-sample gradients, however they are taken, against those of the gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from lnpjax.jacobian._linearize import linearize_samples


def check_norms(model, params, inputs, *, tapped=None, factored=None, rtol=1e-10, atol=1e-12):
    """Compare with `jax.vjp` of every sample alone; count the leaves that have taps of a kind."""

    @jax.jit
    def found(params, inputs, cotangents):
        rows = linearize_samples(model, params, inputs, norms_only=True)
        assert tapped in (None, len(rows.pullbacks.tapped))
        assert factored in (None, len(rows.pullbacks.factorings))
        norms = rows.map_norms(lambda norms, cotangent: norms(cotangent), cotangents)
        gradients = rows.map_vjp(lambda vjp, cotangent: vjp(cotangent), cotangents)
        return norms, rows.vjp(cotangents), gradients

    @jax.jit
    def expected(params, inputs, cotangents):
        def pulled(x, cotangent):
            return jax.vjp(lambda p: model(p, x[None])[0], params)[1](cotangent)[0]

        gradients = jax.vmap(pulled)(inputs, cotangents)
        norms = [jnp.sum(leaf**2, axis=range(1, leaf.ndim)) for leaf in jax.tree.leaves(gradients)]
        return jnp.stack(norms, axis=1), jax.tree.map(lambda g: g.sum(0), gradients), gradients

    shape = jax.eval_shape(model, params, inputs).shape
    arguments = (params, inputs, jax.random.normal(jax.random.key(2), shape))
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=rtol, atol=atol),
        found(*arguments),
        expected(*arguments),
    )
