"""How the variants of *Spectral Lens* are trained: groups of parameters, rates, and what warms up.

Each recipe stands on the one before, as the variants do (Table 2; B.3; released scripts). Steps are
those of the paper's half a million tokens, of which a run to its target loss takes some thousands;
`NanoGPTRecipe.shortened` lays them out for a shorter one. What stands out in the scripts:

- Runs are laid out for 2,500 to 60,000 steps and stop at the target loss: the cosine has hardly
  fallen by then, and a warm-down is never reached.
- The rate of Muon in the Muon variant, 3.6e-4, suits updates that are scaled by the root of a
  matrix's longer side, 28 at a width of 768. They are scaled by ``sqrt(max(1, out / in))``, and the
  rate is 1/56 of the 0.02 of the variant after it, which may inflate what that one gains.

`optax.contrib.muon` orthogonalises here as in the scripts: by five Newton-Schulz steps whose
coefficients do not add up to one. Singular values end up anywhere in [0.68, 1.13], and an update is
20 % away from the polar factor, by design (`lnpjax.theory.fourier.polar_factor`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base.checks import check_count, require
from lnpjax.models.nanogpt.variants import LSWA_ADAM, NANOGPT_VARIANTS, NanoGPTSize

Group: TypeAlias = Literal["embedding", "head", "matrices", "scalars"]
Step: TypeAlias = Int[Array, ""] | int


class Rates(NamedTuple):
    """The peak learning rate of every group of parameters.

    Attributes:
        embedding: tables of tokens, positions and values; a tied one is also the read-out.
        head: a read-out of its own.
        matrices: matrices inside the blocks.
        scalars: what is less than a matrix.

    Example:
        >>> Rates(0.3, 0.002, 0.02, 0.02).matrices
        0.02
    """

    embedding: float
    head: float
    matrices: float
    scalars: float


BASELINE_RATES = Rates(6e-4, 6e-4, 6e-4, 6e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NanoGPTRecipe:
    """How a variant is trained. The defaults are the Baseline's.

    Attributes:
        rates: peak learning rates.
        muon: whether Muon (Jordan, 2024) trains the matrices inside the blocks; else Adam.
        betas: of Adam, for the read-out and such matrices.
        outer_betas: of Adam, for tables and scalars.
        weight_decay: of Adam, times the rate.
        schedule: "cosine" from the peak to zero, or "plateau" and then a linear warm-down.
        warmdown: the share of the run that the latter takes.
        clip_norm: what the norm of the whole gradient is clipped to; None for none.
        momentum: of Muon, at the start and after the warm-up.
        momentum_steps: of the linear warm-up between the two.
        window_steps: of the linear warm-up of attention's window; 0 for none.
        window_rounding: "first": down to a multiple of the first window; "block": down to one of a
            block; "up": up to one, from no window at all.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> NanoGPTRecipe().rates.matrices
        0.0006
    """

    rates: Rates = BASELINE_RATES
    muon: bool = False
    betas: tuple[float, float] = (0.9, 0.95)
    outer_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    schedule: Literal["cosine", "plateau"] = "cosine"
    warmdown: float = 0.0
    clip_norm: float | None = None
    momentum: tuple[float, float] = (0.95, 0.95)
    momentum_steps: int = 0
    window_steps: int = 0
    window_rounding: Literal["first", "block", "up"] = "first"

    def __post_init__(self) -> None:
        for name in ("momentum_steps", "window_steps"):
            check_count(name, getattr(self, name), least=0)
        fine = all(0 <= rate < math.inf for rate in self.rates)
        require(fine, "rates", expected="finite numbers >= 0", got=self.rates)
        for name in ("betas", "outer_betas", "momentum"):
            pair = getattr(self, name)
            fine = len(pair) == 2 and all(0 <= value < 1 for value in pair)
            require(fine, name, expected="two numbers in [0, 1)", got=pair)
        inside = 0 <= self.warmdown <= 1
        require(inside, "warmdown", expected="a share of the run", got=self.warmdown)
        fine = self.clip_norm is None or self.clip_norm > 0
        require(fine, "clip_norm", expected="a number > 0", got=self.clip_norm)
        words = {"schedule": ("cosine", "plateau"), "window_rounding": ("first", "block", "up")}
        for name, known in words.items():
            expected = f"one of {', '.join(map(repr, known))}"
            word = getattr(self, name)
            require(word in known, name, expected=expected, got=repr(word))

    def scaled(self, factor: float) -> NanoGPTRecipe:
        """Return the recipe with all rates times a number, as the paper's search does (B.3)."""
        return dataclasses.replace(self, rates=Rates(*(factor * rate for rate in self.rates)))

    def shortened(self, factor: float) -> NanoGPTRecipe:
        """Return the recipe whose warm-ups take this part of their steps, rounded up."""
        steps = {
            name: math.ceil(factor * getattr(self, name))
            for name in ("momentum_steps", "window_steps")
        }
        return dataclasses.replace(self, **steps)

    def rate_factor(self, step: Step, num_steps: int) -> Float[Array, ""]:
        """Return the part of the peak rates that a step of the run has.

        Args:
            step: the step, from 0.
            num_steps: of the run.

        Example:
            >>> recipe = NanoGPTRecipe(schedule="plateau", warmdown=0.5)
            >>> [float(recipe.rate_factor(step, 4)) for step in range(4)]
            [1.0, 1.0, 1.0, 0.5]
        """
        left = 1 - jnp.asarray(step) / num_steps
        if self.schedule == "cosine":
            return (1 - jnp.cos(jnp.pi * left)) / 2
        return jnp.clip(left / self.warmdown, 0, 1) if self.warmdown else jnp.ones(())

    def momentum_at(self, step: Step) -> Float[Array, ""]:
        """Return Muon's momentum at a step.

        Example:
            >>> recipe = NanoGPTRecipe(momentum=(0.85, 0.95), momentum_steps=4)
            >>> round(float(recipe.momentum_at(2)), 3)
            0.9
        """
        first, last = self.momentum
        return first + _risen(step, self.momentum_steps) * (last - first)

    def window_at(self, step: Step, size: NanoGPTSize) -> Int[Array, ""] | None:
        """Return how many positions attention reaches at a step.

        Args:
            step: the step, from 0.
            size: the sizes of the chain.

        Returns:
            Positions, for `WindowedTokens`; None where the window stays what the model has.

        Example:
            >>> size = NanoGPTSize(num_layers=4, num_heads=1, hidden_size=8)
            >>> recipe = nanogpt_recipe("FlexWin")
            >>> [int(recipe.window_at(step, size)) for step in (0, 1000, 2000)]
            [64, 896, 1792]
        """
        if not self.window_steps:
            return None
        first, last = size.first_window, size.last_window
        risen = _risen(step, self.window_steps) * (last - first)
        if self.window_rounding == "up":
            blocks = jnp.ceil(risen / size.block)
            return jnp.maximum(blocks, 1).astype(jnp.int32) * size.block
        unit = first if self.window_rounding == "first" else size.block
        units = jnp.floor((first + risen) / unit)
        return jnp.maximum(units, 1).astype(jnp.int32) * unit


def _risen(step: Step, num_steps: int) -> Float[Array, ""]:
    """Return how much of a linear warm-up is done."""
    return jnp.minimum(jnp.asarray(step) / max(num_steps, 1), 1.0) if num_steps else jnp.ones(())


_WINDOW = {"window_steps": 3000, "window_rounding": "block"}
_CHANGES: dict[str, dict[str, Any]] = {
    "RoPE": {"weight_decay": 0.0, "clip_norm": 1.0},
    "Muon": {
        "rates": Rates(3.6e-3, 3.6e-3, 3.6e-4, 3.6e-3),
        "muon": True,
        "schedule": "plateau",
        "warmdown": 0.1,
    },
    "Untied": {"rates": Rates(0.3, 0.002, 0.02, 0.02)},
    "ValueMix": {"momentum": (0.85, 0.95), "momentum_steps": 500, "warmdown": 0.03},
    "U-Net": {"rates": Rates(0.6, 0.008, 0.04, 0.04), "warmdown": 0.1},
    "FlexWin": {"window_steps": 2000},
    "VTE": {"window_steps": 4000},
    "SparseV": {"outer_betas": (0.8, 0.95), **_WINDOW},
    "TruncRoPE": {"momentum_steps": 300},
    "LSWA": {"window_steps": 2500, "window_rounding": "up"},
}


def nanogpt_recipe(name: str, **changes: Any) -> NanoGPTRecipe:
    """Return how a variant is trained: its own changes and those of all before it.

    Args:
        name: a key of `lnpjax.models.NANOGPT_VARIANTS`, or "LSWA-Adam".
        **changes: fields of `NanoGPTRecipe` that are to be otherwise.

    Returns:
        The recipe.

    Raises:
        ValueError: if there is no such variant, or the changes do not fit.

    Example:
        >>> nanogpt_recipe("U-Net").rates
        Rates(embedding=0.6, head=0.008, matrices=0.04, scalars=0.04)
    """
    known = [*NANOGPT_VARIANTS, LSWA_ADAM]
    require(name in known, "name", expected=f"one of {', '.join(known)}", got=repr(name))
    fields: dict[str, Any] = {}
    for step in NANOGPT_VARIANTS:
        fields |= _CHANGES.get(step, {})
        if step == name.removesuffix("-Adam"):
            break
    if name == LSWA_ADAM:
        fields |= {"muon": False, "rates": fields["rates"]._replace(matrices=0.004)}
    return NanoGPTRecipe(**fields | changes)


def nanogpt_groups(params: PyTree) -> PyTree:
    """Name the group of every parameter of a `lnpjax.models.NanoGPT`.

    Args:
        params: its parameters.

    Returns:
        The same structure, of "embedding", "head", "matrices" and "scalars".

    Example:
        >>> nanogpt_groups({"head": {"kernel": jnp.eye(2)}, "skip_weights": jnp.ones(2)})
        {'head': {'kernel': 'head'}, 'skip_weights': 'scalars'}
    """

    def group(path: str, leaf: Array) -> Group:
        part = path.split("/")[0]
        if jnp.ndim(leaf) < 2:
            return "scalars"
        if part == "head":
            return "head"
        return "matrices" if part == "layers" else "embedding"

    leaves, structure = jax.tree.flatten(params)
    paths = parameters.paths(params)
    return jax.tree.unflatten(structure, list(map(group, paths, leaves)))


def nanogpt_optimizer(
    recipe: NanoGPTRecipe, num_steps: int, *, factor: Float[Array, ""] | float = 1.0
) -> optax.GradientTransformation:
    """Return the optimizer of a recipe: clipping, then one optimizer for each group of parameters.

    Muon sums gradients as the record runs do, ``m <- mu m + g`` with Nesterov's ``g + mu m``, since
    `optax.contrib.muon` averages them, which is not the same while mu warms up.

    Args:
        recipe: how it is trained.
        num_steps: of the run, that the schedule is laid out for.
        factor: what all rates are multiplied by; may be traced.

    Returns:
        The optimizer, for the parameters of a `lnpjax.models.NanoGPT`.

    Raises:
        ValueError: if `num_steps` is below 1.

    Example:
        >>> params = {"layers": {"kernel": jnp.eye(2)}, "head": {"kernel": jnp.eye(2)}}
        >>> optimizer = nanogpt_optimizer(nanogpt_recipe("Untied", clip_norm=None), 10)
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> [round(float(updates[group]["kernel"][0, 0]), 3) for group in ("layers", "head")]
        [-0.022, -0.002]
    """
    check_count("num_steps", num_steps)

    def rate(peak: float) -> Callable[[Step], Float[Array, ""]]:
        return lambda step: factor * peak * recipe.rate_factor(step, num_steps)

    def adam(peak: float, betas: tuple[float, float]) -> optax.GradientTransformation:
        return optax.adamw(rate(peak), *betas, weight_decay=recipe.weight_decay)

    rates = recipe.rates
    groups: dict[str, optax.GradientTransformation] = {
        "embedding": adam(rates.embedding, recipe.outer_betas),
        "head": adam(rates.head, recipe.betas),
        "scalars": adam(rates.scalars, recipe.outer_betas),
        "matrices": adam(rates.matrices, recipe.betas),
    }
    if recipe.muon:
        summed = optax.inject_hyperparams(optax.trace, static_args="nesterov")
        groups["matrices"] = optax.chain(
            summed(decay=recipe.momentum_at, nesterov=True),
            optax.contrib.muon(rate(rates.matrices), beta=0.0, nesterov=False),
        )
    optimizer = optax.partition(groups, nanogpt_groups)
    if recipe.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(recipe.clip_norm), optimizer)
