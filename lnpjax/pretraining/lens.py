"""The spectra of activations, of per-sample gradients and of weights, as a run records them.

Measured over a fixed pool of held-out sequences, the same at every step and, for equal data, in
every run (*Spectral Lens*, section 2).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import PyTree

from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.lens import (
    activation_spectra,
    attention_probes,
    gradient_spectra,
    nnx_hidden_states,
    normalized_states,
    weight_spectra,
)
from lnpjax.models import Llama, NanoGPT, ViT
from lnpjax.pretraining.processes import SharedRun
from lnpjax.runs import Run
from lnpjax.runs._rows import LENS_FILE, SPECTRUM_NUMBERS
from lnpjax.spectra import HEAD_WINDOW, SpectrumSummary, tail_window

Summaries: TypeAlias = dict[str, SpectrumSummary]


class LensSpectra(NamedTuple):
    """What was measured at one step; the names are the fields of a run's "spectra" rows.

    Attributes:
        activations: of each block's output, by the block's path.
        gradients: of the last block's attention and feed-forward outputs, by the weight's path.
        weights: of the same weights.
    """

    activations: Summaries
    gradients: Summaries
    weights: Summaries


class Lens:
    """Measure the spectra of a transformer: ``lens(params, pool) -> LensSpectra``, to be compiled.

    Args:
        model: the model, abstract or not.
        apply_fn: its function.
        loss_fn: the mean loss over a batch.
        microbatch_size: sequences in memory at once.
        normalize: divide the outputs of blocks by their root mean square.
    """

    def __init__(
        self,
        model: Llama | NanoGPT | ViT,
        apply_fn: ApplyFn,
        loss_fn: LossFn,
        *,
        microbatch_size: int,
        normalize: bool = False,
    ) -> None:
        self.layers = [f"layers/{index}" for index in range(model.config.num_layers)]
        hidden_states, params = nnx_hidden_states(model, self.layers)
        self.weights = list(attention_probes(params).values())
        states = normalized_states(hidden_states) if normalize else hidden_states
        self._activations = activation_spectra(states, microbatch_size=microbatch_size)
        self._gradients = gradient_spectra(
            apply_fn, loss_fn, weights=self.weights, microbatch_size=microbatch_size
        )

    def __call__(self, params: PyTree, pool: Batch) -> LensSpectra:
        """Measure at some parameters, over a pool of held-out samples."""
        return LensSpectra(
            self._activations(params, pool),
            self._gradients(params, pool),
            weight_spectra(params, self.weights),
        )


def lens_row(spectra: LensSpectra) -> dict[str, dict[str, dict[str, float]]]:
    """Return the numbers of a "spectra" row, layers in the order of their depth.

    Args:
        spectra: what was measured, on the host.
    """
    return {kind: summary_numbers(summaries) for kind, summaries in spectra._asdict().items()}


def summary_numbers(summaries: Summaries) -> dict[str, dict[str, float]]:
    """Return the numbers of each spectrum, in the order of depth.

    Args:
        summaries: what was measured, on the host.
    """
    return {name: _numbers(summaries[name]) for name in sorted(summaries, key=depth)}


def summary_arrays(kind: str, summaries: Summaries) -> dict[str, Any]:
    """Return the eigenvalues of each spectrum, and the windows of ranks of their fits.

    Args:
        kind: what the names of the arrays begin with.
        summaries: what was measured, on the host.
    """
    arrays: dict[str, Any] = {}
    for name, summary in summaries.items():
        arrays[f"{kind}/{name}"] = summary.eigenvalues
        size = len(summary.eigenvalues)
        head = HEAD_WINDOW[0], min(HEAD_WINDOW[1], size)
        arrays[f"head_window/{kind}/{name}"] = np.asarray(head)
        arrays[f"tail_window/{kind}/{name}"] = np.asarray(tail_window(size))
    return arrays


def save_lens(run: Run | SharedRun, step: int, spectra: LensSpectra) -> None:
    """Write the spectra to `spectra/lens-STEP.npz`, with the windows of ranks of their fits.

    Args:
        run: where.
        step: before whose update they were measured; also saved.
        spectra: what was measured, on the host.
    """
    arrays: dict[str, Any] = {"step": np.asarray(step)}
    for kind, summaries in spectra._asdict().items():
        arrays |= summary_arrays(kind, summaries)
    run.save_spectrum(LENS_FILE.name(step), **arrays)


def depth(name: str) -> list[tuple[int, str]]:
    """Sort names as people count: layers/2 before layers/10.

    Example:
        >>> sorted(["layers/10", "layers/2"], key=depth)
        ['layers/2', 'layers/10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split("/")]


def _numbers(summary: SpectrumSummary) -> dict[str, float]:
    """Return what `lnpjax.runs._rows.SPECTRUM_NUMBERS` says."""
    numbers: dict[str, Any] = {
        "rank_me": summary.rank_me,
        "effective_dimension": summary.effective_dimension,
        "trace": summary.trace,
        "status": summary.status,
    }
    for end, fit in (("head", summary.head), ("tail", summary.tail)):
        numbers |= {
            f"alpha_{end}": fit.exponent,
            f"alpha_{end}_sem": fit.exponent_sem,
            f"alpha_{end}_r_squared": fit.r_squared,
            f"alpha_{end}_points": fit.num_points,
        }
    return {field.name: np.asarray(numbers[field.name]).item() for field in SPECTRUM_NUMBERS}
