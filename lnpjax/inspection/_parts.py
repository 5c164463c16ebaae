"""The parts of an inspection, in the order in which they are measured, and how to read them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import Array, Key

from lnpjax.decomposition import LNP
from lnpjax.inspection._groups import depth_of
from lnpjax.inspection._measures import (
    CROSS,
    SELF,
    Findings,
    measure_activations,
    measure_components,
    measure_density,
    measure_gradients,
    measure_learning,
    measure_loss,
    measure_shells,
    measure_weights,
)
from lnpjax.inspection._subject import InspectionOptions, Subject
from lnpjax.plotting import (
    plot_density,
    plot_lnp_groups,
    plot_position,
    plot_shell_profile,
    plot_spectra,
)
from lnpjax.shells import Profile
from lnpjax.spectra import PositionDistribution


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a part.

    Attributes:
        name: of its file.
        draw: ``draw(measured, path, title)``.
        reading: how to read it, in a sentence or two.
    """

    name: str
    draw: Callable[[Any, Path, str], object]
    reading: str


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of an inspection.

    Attributes:
        name: its key.
        title: its heading.
        reading: what it says of the network, in a sentence or two.
        measure: the function that measures.
        figures: what is drawn of it.

    Example:
        >>> PARTS["loss"].title
        'Loss'
    """

    name: str
    title: str
    reading: str
    measure: Callable[[Subject, InspectionOptions, Key[Array, ""]], Findings]
    figures: tuple[Figure, ...] = ()


def _draw_components(measured: dict[str, LNP], path: Path, title: str) -> None:
    labels = {SELF: "batch A against itself", CROSS: "batch A against batch B"}
    results = {labels[name]: result for name, result in measured.items()}
    groups = sorted(measured[SELF].groups, key=depth_of)
    plot_lnp_groups(results, path, groups=groups, title=title)


def _draw_shells(measured: Profile, path: Path, title: str) -> None:
    del title  # it is the label of the state
    plot_shell_profile(measured, path)


def _draw_learning(measured: PositionDistribution, path: Path, title: str) -> None:
    plot_position({"batch A": measured}, path, title=title)


def _draw_density(measured: Any, path: Path, title: str) -> None:
    plot_density(measured, path, title=title)


def _draw_spectra(measured: Any, path: Path, title: str, *, kind: Any) -> None:
    plot_spectra(measured, kind, path, title=title)


_SPECTRA = (
    "Left: each spectrum, divided by its sum, by rank. A steep curve is variance in few "
    "directions; a flat one, in many. Middle: RankMe, the number of directions that matter, in an "
    "entropy sense. Right: the exponents of power laws fitted to the leading ranks (head) and to "
    "the tail; larger is steeper."
)
_ALL = (
    Part(
        "loss",
        "Loss",
        "How well the network predicts the two batches. A network that knows nothing, and says so, "
        "has the loss of chance, the logarithm of the number of classes. If the losses of A and B "
        "differ by much more than their errors, the batches are too small to speak for the data.",
        measure_loss,
    ),
    Part(
        "components",
        "LNP components",
        "The loss falls, per unit of learning rate of a gradient step on batch A, by delta_loss = "
        "chi_loss x chi_net x chi_pos: how wrong the predictions are, how strongly the outputs "
        "respond to the parameters, and where in the spectrum of the neural tangent kernel the "
        "loss gradient lies. Read on A itself, chi_pos lies between 0 and 1 and is the mean "
        "strength of the eigenmodes that learning draws on: near 1, one dominant mode; small, "
        "deep in the spectral tail. Read on batch B, it tells how much of the step carries over; "
        "below zero, a step on A harms B.",
        measure_components,
        (
            Figure(
                "components",
                _draw_components,
                "One row for each parameter group, from the input at the top to the output. Left: "
                "where the group learns; the further to the left, the deeper in its spectral tail. "
                "Middle: the share of the response to parameters that is this group's. Right: the "
                "share of the fall of the loss that a gradient step makes through it. A group with "
                "a large share in the middle and a small one on the right responds without being "
                "asked to.",
            ),
        ),
    ),
    Part(
        "shells",
        "Shells of the error",
        "The eigenvalues of the kernel are sorted into shells, each a fixed factor wide, and the "
        "error (each target's surprisal) is divided among them. Strong modes are learned first, so "
        "that the error that is left lies at and below a frontier, in modes too weak to have been "
        "learned yet.",
        measure_shells,
        (
            Figure(
                "shells",
                _draw_shells,
                "Strong modes are on the right. Where the energy falls steeply on the right, the "
                "error has been learned; its peak is the frontier. A slope below the peak that is "
                "marked in doubt is not that of a power law. Bands: 95 % intervals over a few "
                "small batches.",
            ),
        ),
    ),
    Part(
        "learning",
        "Distribution of learning",
        "chi_pos is a mean; this is what it is the mean of: how the loss gradient is spread over "
        "the eigenmodes of the kernel, by their strength. A mean far above the median says that a "
        "few strong modes make the mean, while most of the gradient lies in the tail.",
        measure_learning,
        (
            Figure(
                "learning",
                _draw_learning,
                "Strong modes are on the right. Left: the share of the squared loss gradient "
                "along modes of each strength p, a share of the kernel's trace. Right: the same, "
                "added up from the weakest; dots are what Lanczos resolves. The weakest dot "
                "stands for all modes from there down.",
            ),
        ),
    ),
    Part(
        "density",
        "Spectral density of the kernel",
        "How many eigenvalues of the empirical neural tangent kernel on batch A there are of each "
        "size, from random vectors and Lanczos, without forming the kernel. The effective rank is "
        "the number of modes that carry the trace, in an entropy sense; as long as it falls with "
        "the number of products, it is an upper bound.",
        measure_density,
        (
            Figure(
                "density",
                _draw_density,
                "Left: the number of eigenvalues of each size; strong modes are few. Right: what "
                "they add up to; where the trace lies is what the effective rank counts. Each dot "
                "stands for the eigenvalues around it, and the weakest for all from there down. "
                "All random vectors place their nodes alike, so that single dots are coarser than "
                "their bars say.",
            ),
        ),
    ),
    Part(
        "activations",
        "Spectra of activations",
        "The spectrum of the covariance of every layer's hidden states, over all positions of both "
        "batches: how many directions the representation uses.",
        measure_activations,
        (Figure("activations", functools.partial(_draw_spectra, kind="activations"), _SPECTRA),),
    ),
    Part(
        "gradients",
        "Spectra of per-sample gradients",
        "Each sample of the two batches has a gradient of its own in a weight. Their spectrum says "
        "over how many directions the samples spread what they ask of it: few mean that samples "
        "agree. Compare the same weight between networks, not different weights.",
        measure_gradients,
        (Figure("gradients", functools.partial(_draw_spectra, kind="gradients"), _SPECTRA),),
    ),
    Part(
        "weights",
        "Spectra of weights",
        "The squared singular values of every weight matrix. Random matrices have a bulk with a "
        "sharp end; trained ones grow heavy tails and single large values beyond it.",
        measure_weights,
        (Figure("weights", functools.partial(_draw_spectra, kind="weights"), _SPECTRA),),
    ),
)
PARTS: dict[str, Part] = {part.name: part for part in _ALL}
"""The parts by name, in the order in which they are measured: the cheap ones that people ask for
first come first."""
