"""The experiments of the papers as code, by the name that `lnpjax reproduce` takes.

Example:
    >>> FOLDERS["noise-scaling"]
    'ntk_lens.noise_scaling'
    >>> list(FOLDERS)[:2]
    ['random-features', 'ntk-model-scaling']
    >>> experiment("noise-scaling").paper
    'NTK Lens'
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lnpjax.experiments._harness.reproduction import Reproduction

__all__ = ["FOLDERS", "experiment", "summaries"]

FOLDERS = {
    "random-features": "random_features",
    "ntk-model-scaling": "ntk_lens.model_scaling",
    "ntk-data-scaling": "ntk_lens.data_scaling",
    "ntk-transition": "ntk_lens.transition",
    "noise-scaling": "ntk_lens.noise_scaling",
    "spectral-lens-toy": "spectral_lens_toy",
    "spectral-lens-chain": "spectral_lens_chain",
    "batch-size-tiers": "spectral_lens_batch_sizes",
    "muon-vs-adam": "spectral_lens_muon_adam",
    "shells-families": "spectral_shells.families",
    "shells-balance": "spectral_shells.balance",
    "shells-scale-free": "spectral_shells.scale_free",
    "shells-double-descent": "spectral_shells.double_descent",
    "scaling-laws": "spectral_reach.scaling_laws",
    "isocompute": "spectral_reach.isocompute",
    "training-dynamics": "spectral_reach.training_dynamics",
    "linear-probes": "spectral_reach.linear_probes",
    "vision": "spectral_reach.vision",
    "maximal-update": "spectral_reach.maximal_update",
    "hutchinson-convergence": "spectral_reach.hutchinson_convergence",
    "explicit-spectrum": "spectral_reach.explicit_spectrum",
    "mode-freezing": "spectral_reach.mode_freezing",
    "spectral-descent": "spectral_reach.spectral_descent",
}
"""The folder of every experiment; each is loaded when it is asked for."""


def experiment(name: str) -> Reproduction[Any]:
    """Return the experiment of that name.

    Args:
        name: a key of `FOLDERS`.

    Example:
        >>> list(experiment("noise-scaling").presets)
        ['smoke', 'cpu', 'paper']
    """
    return importlib.import_module(f"{__name__}.{FOLDERS[name]}").EXPERIMENT


def summaries() -> dict[str, str]:
    """Return what every experiment is, by name: the first line of its folder, which is not loaded.

    So the help of the command line lists them all without the time that their imports take.

    Example:
        >>> summaries()["random-features"]
        'Random features on power-law data (Spectral Reach, Fig. 3)'
    """
    here = Path(__file__).parent
    titles = {}
    for name, folder in FOLDERS.items():
        source = here.joinpath(*folder.split("."), "__init__.py").read_text()
        documentation = ast.get_docstring(ast.parse(source)) or ""
        titles[name] = documentation.partition("\n")[0].removesuffix(".")
    return titles
