"""What each part of an inspection measures, and the numbers that it gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax.decomposition import LNP, lnp
from lnpjax.inspection._groups import block_of, depth_of
from lnpjax.inspection._subject import InspectionOptions, Subject
from lnpjax.jacobian import Batch
from lnpjax.jacobian._losses import sample_losses
from lnpjax.lens import activation_spectra, attention_probes, gradient_spectra, weight_spectra
from lnpjax.pretraining.lens import summary_arrays, summary_numbers
from lnpjax.runs._rows import MEASURED, POSITION_ARRAYS
from lnpjax.shells import Frontier, measure_states, profiles_of
from lnpjax.shells._profiles import profile_arrays, slope_in_doubt
from lnpjax.spectra import (
    SpectralDensity,
    SpectrumSummary,
    position_distribution,
    spectral_density,
)
from lnpjax.spectra._lanczos import measure_at

MOST_GRADIENTS = 4
"""Weights whose per-sample gradients are looked at, where a network has no attention."""
SELF, CROSS = "self", "cross"
A, B = "a", "b"
_UPDATE = ("loss_change", "linear_change", "nu")  # of an update, and there is none
SHELL_BATCHES = 4
"""Parts of the two batches that the shells are averaged over."""


class Findings(NamedTuple):
    """What one part found, made by `lnpjax.inspection.inspect_network`.

    Attributes:
        measured: the library's own results.
        numbers: scalars, in nested dictionaries, as they go into `inspect.json`.
        arrays: by name, as they go into `inspect.npz`.
        flags: `lnpjax.Status` flags, by what they are of.

    Example:
        >>> Findings(None, {"a": {"loss": 2.5}}, {}, {}).numbers["a"]["loss"]
        2.5
    """

    measured: Any
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]
    flags: dict[str, int]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that is called once or twice, so that compiling takes longer than running.

    On CPUs, LLVM's first level of optimisation takes two thirds of the time of the last, and the
    programs, most of which is products of matrices, are as fast.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def measure_loss(subject: Subject, options: InspectionOptions, key: Key[Array, ""]) -> Findings:
    """Measure the loss and the accuracy on both batches, with errors over samples."""
    del options, key

    @compiled
    def evaluate(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        inputs, targets = batch
        logits = subject.apply_fn(params, inputs)
        losses = sample_losses(subject.loss_fn, logits, targets)
        hits = jnp.argmax(logits, -1) == targets
        return losses, jnp.mean(hits, axis=tuple(range(1, hits.ndim)))

    numbers: dict[str, Any] = {}
    for name, batch in ((A, subject.batch_a), (B, subject.batch_b)):
        losses, hits = evaluate(subject.params, batch)
        numbers[name] = {
            **_mean("loss", losses),
            **_mean("accuracy", hits),
            "perplexity": np.exp(np.mean(np.asarray(losses, float))),
        }
    classes = subject.outputs.shape[-1]
    numbers["classes"], numbers["chance"] = classes, math.log(classes)
    return Findings(None, numbers, {}, {})


def _mean(name: str, values: Array) -> dict[str, float]:
    found = np.asarray(values, float)
    sem = found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return {name: float(found.mean()), f"{name}_sem": float(sem)}


def measure_components(
    subject: Subject, options: InspectionOptions, key: Key[Array, ""]
) -> Findings:
    """Measure the LNP components by group, of batch A against itself and against batch B.

    One compiled program serves both: as batch B, A has probes of its own, so that the components
    of A against itself rest on two independent draws.
    """
    del options
    measure = compiled(lnp(subject.apply_fn, subject.loss_fn, groups=block_of))
    measured = {
        name: measure(subject.params, subject.batch_a, other, key=key)
        for name, other in ((SELF, subject.batch_a), (CROSS, subject.batch_b))
    }
    numbers = {name: _component_numbers(result) for name, result in measured.items()}
    flags = {name: int(result.status) for name, result in measured.items()}
    return Findings(measured, numbers, {}, flags)


def _component_numbers(result: LNP) -> dict[str, Any]:
    names = [field.name for field in MEASURED if field.name not in _UPDATE]
    numbers: dict[str, Any] = {name: _number(getattr(result, name)) for name in names}
    numbers["groups"] = {
        name: {
            field.name: _number(getattr(result.groups[name], field.name))
            for field in dataclasses.fields(result.groups[name])
        }
        for name in sorted(result.groups, key=depth_of)
    }
    return numbers


def measure_shells(subject: Subject, options: InspectionOptions, key: Key[Array, ""]) -> Findings:
    """Measure the shells of the error, with errors over parts of both batches.

    What `lnpjax spectrum` measures: `lnpjax.shells.measure_states` and `profiles_of`.
    """
    ((label, spectra),) = measure_states(
        subject.apply_fn,
        subject.loss_fn,
        {subject.name: lambda: subject.params},
        subject.parts(SHELL_BATCHES),
        options.profile,
        key=key,
        report=lambda _: None,
        learning=False,
    )
    (profile,) = profiles_of({label: spectra}, options.profile)
    numbers: dict[str, Any] = {}
    for field in dataclasses.fields(Frontier):
        numbers[field.name] = _number(getattr(profile.frontier, field.name))
        if field.name not in ("num_points", "status"):
            numbers[f"{field.name}_sem"] = profile.sem(field.name)
    numbers |= {} if profile.convergence is None else profile.convergence._asdict()
    numbers["slope_in_doubt"] = slope_in_doubt(profile)
    numbers["batches"] = len(spectra.num_tokens)
    arrays = {name: np.asarray(value) for name, value in profile_arrays(profile).items()}
    return Findings(profile, numbers, arrays, {"shells": int(profile.frontier.status)})


def measure_learning(subject: Subject, options: InspectionOptions, key: Key[Array, ""]) -> Findings:
    """Measure the distribution of the loss gradient over the spectrum, on batch A."""
    products = min(options.profile.num_matvecs, subject.num_outputs)
    measure = compiled(
        position_distribution(subject.apply_fn, subject.loss_fn, num_matvecs=products)
    )
    found = measure(subject.params, subject.batch_a, key=key)
    names = [field.name for field in POSITION_ARRAYS]
    arrays = {name: np.asarray(getattr(found, name)) for name in ("p", "weights")}
    numbers = {name: _number(getattr(found, name)) for name in names if name not in arrays}
    return Findings(found, numbers, arrays, {"distribution": int(found.status)})


def measure_density(subject: Subject, options: InspectionOptions, key: Key[Array, ""]) -> Findings:
    """Measure the eigenvalue density of the kernel on batch A."""
    products = max(2, min(options.profile.num_matvecs, subject.num_outputs))

    @compiled
    def measure(
        params: PyTree, inputs: PyTree, key: Key[Array, ""]
    ) -> tuple[SpectralDensity, dict[str, tuple[Array, Array]]]:
        density = spectral_density(
            subject.apply_fn,
            params,
            inputs,
            num_matvecs=products,
            num_probes=options.num_probes,
            key=key,
        )
        names = ("trace", "effective_rank", "inverse_participation_ratio")
        estimates = {name: getattr(density, name) for name in names}
        half = with_fewer_products(density, max(1, products // 2))
        return density, estimates | {"effective_rank_half": half.effective_rank}

    density, estimates = measure(subject.params, subject.batch_a[0], key)
    numbers: dict[str, Any] = {"dimension": int(density.dimension)}
    numbers["largest"] = float(np.max(density.nodes))
    for name, (value, sem) in estimates.items():
        numbers |= {name: _number(value), f"{name}_sem": _number(sem)}
    numbers["products"] = products
    arrays = {"nodes": np.asarray(density.nodes), "weights": np.asarray(density.weights)}
    return Findings(density, numbers, arrays, {"density": int(density.status)})


def with_fewer_products(density: SpectralDensity, num_matvecs: int) -> SpectralDensity:
    """Return the density that fewer products would have given: Lanczos on its nodes repeats it."""

    def fewer(
        nodes: Float[Array, " node"], weights: Float[Array, " node"]
    ) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
        found = measure_at(lambda v: nodes * v, jnp.sqrt(weights), num_matvecs=num_matvecs)
        return found.nodes, found.weights * found.total

    nodes, weights = jax.vmap(fewer)(density.nodes, density.weights)
    return dataclasses.replace(density, nodes=nodes, weights=weights)


def measure_activations(
    subject: Subject, options: InspectionOptions, key: Key[Array, ""]
) -> Findings:
    """Measure the spectra of the hidden states' covariances, over both batches."""
    del options, key
    expected = "hidden states (lnpjax.lens.nnx_hidden_states of the module)"
    require(subject.hidden_states is not None, "subject", expected=expected, got="none")
    assert subject.hidden_states is not None
    measure = compiled(activation_spectra(subject.hidden_states))
    return _spectra("activations", measure(subject.params, subject.pool))


def measure_gradients(
    subject: Subject, options: InspectionOptions, key: Key[Array, ""]
) -> Findings:
    """Measure the spectra of the per-sample gradients of a few weights, over both batches."""
    del options, key
    weights = probed_weights(subject.params)
    measure = compiled(gradient_spectra(subject.apply_fn, subject.loss_fn, weights=weights))
    return _spectra("gradients", measure(subject.params, subject.pool))


def measure_weights(subject: Subject, options: InspectionOptions, key: Key[Array, ""]) -> Findings:
    """Measure the spectra of all weights that are matrices."""
    del options, key
    leaves = dict(
        zip(parameters.paths(subject.params), jax.tree.leaves(subject.params), strict=True)
    )
    # Compiled once for each shape, and not once for each weight.
    measure = compiled(lambda weight: weight_spectra({"": weight}, "")[""])
    return _spectra(
        "weights", {name: measure(leaves[name]) for name in matrices_of(subject.params)}
    )


def _spectra(kind: str, summaries: dict[str, SpectrumSummary]) -> Findings:
    ordered = {name: summaries[name] for name in sorted(summaries, key=depth_of)}
    flags = {name: int(summary.status) for name, summary in ordered.items()}
    arrays = {name: np.asarray(value) for name, value in summary_arrays(kind, ordered).items()}
    found = summary_numbers(ordered)
    return Findings(ordered, {name: found[name] for name in ordered}, arrays, flags)


def matrices_of(params: PyTree) -> list[str]:
    """List the weights with two axes or more, in the order of depth."""
    leaves = zip(parameters.paths(params), jax.tree.leaves(params), strict=True)
    return sorted((path for path, leaf in leaves if jnp.ndim(leaf) >= 2), key=depth_of)


def probed_weights(params: PyTree) -> tuple[str, ...]:
    """Choose the weights whose per-sample gradients are looked at.

    Those of the last block that *Spectral Lens* compares (`lnpjax.lens.attention_probes`); of a
    network without attention, a few that are spread evenly over its depth.
    """
    try:
        return tuple(attention_probes(params).values())
    except ValueError:
        matrices = matrices_of(params)
        chosen = np.linspace(0, len(matrices) - 1, min(MOST_GRADIENTS, len(matrices)))
        return tuple(matrices[index] for index in chosen.round().astype(int))


def _number(value: Any) -> Any:
    return np.asarray(value).item()
