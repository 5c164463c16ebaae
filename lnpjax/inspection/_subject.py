"""What is inspected, and how."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import check_count
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.lens._activations import HiddenFn
from lnpjax.shells import ProfileOptions


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network, and two batches of data that it is inspected on.

    Attributes:
        name: what figures call it.
        apply_fn: ``apply_fn(params, inputs) -> logits (B, ..., classes)``, pure.
        params: its parameters.
        loss_fn: ``loss_fn(logits, targets) -> scalar``, a mean over samples.
        batch_a: ``(inputs, targets)``, on which a gradient step would be taken.
        batch_b: another batch, of equal shapes.
        hidden_states: ``hidden_states(params, inputs) -> {layer: (B, ..., features)}``, as from
            `lnpjax.lens.nnx_hidden_states`; None to leave activations out.

    Example:
        >>> import jax.numpy as jnp
        >>> from lnpjax.pretraining import cross_entropy
        >>> batch = (jnp.zeros((4, 2), int), jnp.ones((4, 2), int))
        >>> subject = Subject("table", lambda w, x: w[x], jnp.eye(3), cross_entropy, batch, batch)
        >>> subject.pool[0].shape
        (8, 2)
    """

    name: str
    apply_fn: ApplyFn
    params: PyTree
    loss_fn: LossFn
    batch_a: Batch
    batch_b: Batch
    hidden_states: HiddenFn | None = None

    @property
    def pool(self) -> Batch:
        """Both batches together."""
        both = jax.tree.map(lambda a, b: np.concatenate([a, b]), self.batch_a, self.batch_b)
        return both[0], both[1]

    @property
    def outputs(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the outputs on a batch."""
        return jax.eval_shape(self.apply_fn, self.params, self.batch_a[0])

    @property
    def num_outputs(self) -> int:
        """How many numbers the outputs on a batch are: the side of the kernel."""
        return math.prod(self.outputs.shape)

    def parts(self, count: int) -> list[Batch]:
        """Divide the pool into `count` equal batches, or fewer if there are few samples."""
        num_samples = len(jax.tree.leaves(self.pool)[0])
        size = max(1, num_samples // count)
        return [
            jax.tree.map(lambda leaf, at=at: leaf[at : at + size], self.pool)
            for at in range(0, min(count, num_samples) * size, size)
        ]


@dataclasses.dataclass(frozen=True)
class InspectionOptions:
    """How much is measured.

    Attributes:
        num_probes: random vectors of the spectral density, at least two.
        profile: the products with the kernel for each batch or random vector, and the shells.

    Example:
        >>> InspectionOptions(num_probes=1).check()
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 2, got 1
    """

    num_probes: int = 3
    profile: ProfileOptions = dataclasses.field(
        default_factory=lambda: ProfileOptions(num_matvecs=16)
    )

    def check(self) -> None:
        """Refuse invalid options.

        Raises:
            ValueError: naming the option.
        """
        check_count("num_probes", self.num_probes, least=2)
        check_count("num_matvecs", self.profile.num_matvecs, least=2)
        self.profile.check()


DEFAULT_OPTIONS = InspectionOptions()
