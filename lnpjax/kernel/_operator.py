"""The empirical NTK as a linear map, for kernels that are too large to be formed."""

from __future__ import annotations

import dataclasses
import math

import jax
from jaxtyping import Array, Float, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax._base.entry_points import entry_point
from lnpjax.jacobian import ApplyFn, Linearization, OutputSubset, linearize
from lnpjax.jacobian._contract import check_batch
from lnpjax.jacobian._outputs import restrict


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EntkOperator:
    """``Theta = J_1 P J_2^T`` as a linear map; made by `entk_operator`. A pytree.

    Attributes:
        left: the network, linearised at the first batch.
        right: at the second one.
    """

    left: Linearization
    right: Linearization

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix: all outputs of either batch."""
        return math.prod(self.left.outputs.shape), math.prod(self.right.outputs.shape)

    @property
    def T(self) -> EntkOperator:
        """The transpose, ``J_2 P J_1^T``."""
        return EntkOperator(self.right, self.left)

    @entry_point
    def __call__(self, vector: Float[Array, "n2 ..."]) -> Float[Array, "n1 ..."]:
        """Multiply a vector by Theta. Cost: 2/3 gradient on either batch.

        Args:
            vector: in the shape of the outputs of the second batch; of several vectors,
                ``jax.vmap(operator)``.

        Returns:
            ``Theta vector``, in the shape of the outputs of the first batch and their precision.

        Raises:
            ValueError: if the shape differs.
        """
        require(
            vector.shape == self.right.outputs.shape,
            "vector",
            expected=f"the shape of the second batch's outputs, {self.right.outputs.shape}",
            got=vector.shape,
        )
        with jax.default_matmul_precision("highest"):
            return self.left.jvp(self.right.weighted_vjp(vector))


@entry_point
def entk_operator(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    inputs2: PyTree | None = None,
    outputs: OutputSubset = None,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
) -> EntkOperator:
    """Make the empirical NTK ``Theta = J_1 P J_2^T`` of one or two batches a linear map.

    *Spectral Reach*, eq. 5; what `entk` returns as a matrix. Every product is exact, and nothing as
    large as the kernel or as a Jacobian is made. It is right where samples interact, too.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        inputs: the first batch, n1 samples; any pytree whose leaves lead with the sample.
        inputs2: the second batch, n2 samples; `None` for the first one again.
        outputs: which outputs of each sample to keep (`lnpjax.jacobian.select_outputs`).
        wrt: the trainable subset.
        preconditioner: optional diagonal P >= 0 in the structure of the trainable parameters.

    Returns:
        An `EntkOperator`, to be called with arrays in the shape of the second batch's outputs.

    Raises:
        TypeError, ValueError: for bad networks, batches or preconditioners, or if a sample of one
            batch has other outputs than one of the other.

    Cost: a forward pass of each batch; each product 2/3 gradient on either.

    Example:
        Kernel regression: what infinitely many small steps on squared errors would learn.

        >>> import jax.numpy as jnp
        >>> from jax.scipy.sparse.linalg import cg
        >>> line = lambda w, x: x @ w
        >>> weights, train, test = jnp.zeros((2, 1)), jnp.eye(2), jnp.array([[1.0, 2.0]])
        >>> solution, _ = cg(entk_operator(line, weights, train), jnp.array([[3.0], [4.0]]))
        >>> entk_operator(line, weights, test, inputs2=train)(solution)
        Array([[11.]], dtype=float32)
    """
    if inputs2 is not None:
        check_batch(apply_fn, params, inputs2, argument="inputs2")
    network = apply_fn if outputs is None else restrict(apply_fn, outputs)

    def at(batch: PyTree) -> Linearization:
        with jax.default_matmul_precision("highest"):
            return linearize(network, params, batch, wrt=wrt, preconditioner=preconditioner)

    left = at(inputs)
    right = left if inputs2 is None else at(inputs2)
    require(
        left.outputs.shape[1:] == right.outputs.shape[1:],
        "inputs2",
        expected=f"samples with outputs of shape {left.outputs.shape[1:]}, as those of inputs",
        got=right.outputs.shape[1:],
    )
    return EntkOperator(left, right)
