"""Write kernels.npz: empirical NTKs by neural-tangents as it was released, on the last jax it knew.

Needs an environment of its own (Python 3.11), TensorFlow included, and nothing of this library::

    python3.11 -m venv golden-environment
    golden-environment/bin/pip install jax==0.5.3 jaxlib==0.5.3 neural-tangents==0.6.5
    golden-environment/bin/python tests/golden/make_golden_kernels.py

For every network of models.py the file holds the parameters, the two batches, and the float64
kernels of batch 1 with itself and with batch 2, sample-major.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from models import MODELS


def kernel(implementation, apply_fn, params, inputs, inputs2):
    import neural_tangents as nt

    def outputs_by_sample(params, inputs):
        return apply_fn(params, inputs).reshape(len(inputs), -1)

    kernel_fn = nt.empirical_ntk_fn(
        outputs_by_sample, trace_axes=(), implementation=nt.NtkImplementation[implementation]
    )
    n1, n2, m, _ = (blocks := kernel_fn(inputs, inputs2, params)).shape
    return np.asarray(blocks).transpose(0, 2, 1, 3).reshape(n1 * m, n2 * m)


def agreed_kernel(*arguments):
    """The kernel on which both implementations that run on this jax agree."""
    expected = kernel("JACOBIAN_CONTRACTION", *arguments)
    products = kernel("NTK_VECTOR_PRODUCTS", *arguments)
    np.testing.assert_allclose(products, expected, rtol=1e-11, atol=1e-12)
    return expected


def main():
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(20210625)
    arrays = {}
    for name, model in MODELS.items():
        params, inputs1, inputs2 = model.draw(rng)
        arrays |= {f"{name}/params/{leaf}": value for leaf, value in params.items()}
        arrays |= {f"{name}/inputs1": inputs1, f"{name}/inputs2": inputs2}
        arrays[f"{name}/kernel11"] = agreed_kernel(model.apply_fn, params, inputs1, None)
        arrays[f"{name}/kernel12"] = agreed_kernel(model.apply_fn, params, inputs1, inputs2)
    np.savez_compressed(Path(__file__).parent / "kernels.npz", **arrays)


if __name__ == "__main__":
    main()
