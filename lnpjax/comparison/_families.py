"""Which runs belong together: families, repetitions, and what their configurations differ in.

*Spectral Lens*, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lnpjax.runs import RunSummary, flatten

# What runs of one family may differ in: the regime that a family is swept over (the paper's batch
# tiers, each at its own learning rate), and what is recorded.
_RECIPE = ("batch_size", "learning_rate", "steps", "warmup_steps")
_REGIME = (*_RECIPE, "seed", "data_seed")
_RECORD = ("log_every", "validate_every", "checkpoint_every", "checkpoints_kept")
_WITHIN_FAMILY = {
    *(f"training/{name}" for name in _REGIME + _RECORD),
    *("lnpjax_version", "run_id", "checkpoints_kept"),
}
# Where these differ, the same loss means different things.
_LOSS_DEPENDS_ON = ("data/fingerprint", "data/context_length", "data/num_validation")


def families(runs: Sequence[RunSummary]) -> list[list[int]]:
    """Sort runs into families: those that are one architecture and recipe in several regimes.

    *Spectral Lens*, section 2, sweeps the batch size within a family, each at its own learning
    rate. Here, runs are of one family if their configurations agree in everything except batch
    size, learning rate, seeds, steps and warm-up, and what does not affect training (what is
    measured and kept).

    Args:
        runs: the runs.

    Returns:
        The indices of each family's runs, families and runs in the order in which they come.

    Example:
        >>> configs = [{"model": {"width": w}, "training": {"batch_size": b}}
        ...            for w, b in ((8, 16), (8, 32), (9, 16))]
        >>> import numpy as np
        >>> none = np.zeros(0)
        >>> families([RunSummary("", one, none, none, 1e3, 9e4, 9e4, ()) for one in configs])
        [[0, 1], [2]]
    """
    return _grouped(runs, _varies_in_family)


def repeats(runs: Sequence[RunSummary]) -> list[list[int]]:
    """Sort runs into repetitions: those whose training differs in seeds only.

    Args:
        runs: the runs.

    Returns:
        The indices of each set, mostly of one run, in the order in which they come.

    Example:
        >>> configs = [{"training": {"steps": n, "seed": s}} for n, s in ((9, 0), (9, 1), (8, 0))]
        >>> import numpy as np
        >>> none = np.zeros(0)
        >>> repeats([RunSummary("", one, none, none, 1e3, 9e4, 9e4, ()) for one in configs])
        [[0, 1], [2]]
    """
    return _grouped(runs, lambda name: _varies_in_family(name) and _last(name) not in _RECIPE)


def _grouped(runs: Sequence[RunSummary], may_differ: Callable[[str], bool]) -> list[list[int]]:
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, run in enumerate(runs):
        flat = flatten(run.config)
        rest = tuple(sorted((name, repr(flat[name])) for name in flat if not may_differ(name)))
        groups.setdefault(rest, []).append(index)
    return list(groups.values())


def _varies_in_family(name: str) -> bool:
    return name in _WITHIN_FAMILY or name.startswith("measurement/")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the options in which runs differ, except those of recording.

    Args:
        runs: the runs.

    Returns:
        The value of each run ("absent" for none) by the option's name, for options that differ.

    Example:
        >>> import numpy as np
        >>> none = np.zeros(0)
        >>> configs = [{"model": {"width": width}} for width in (8, 9)]
        >>> differences([RunSummary("", one, none, none, 1e3, 9e4, 9e4, ()) for one in configs])
        {'model/width': [8, 9]}
    """
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    shown = [n for n in names if not _varies_in_family(n) or _last(n) in _REGIME]
    values = {name: [one.get(name, "absent") for one in flat] for name in shown}
    return {name: of_runs for name, of_runs in values.items() if len({*map(repr, of_runs)}) > 1}


def incomparable(runs: Sequence[RunSummary]) -> list[str]:
    """Return the options, all of the data, for which a loss means different things in the runs.

    Args:
        runs: the runs.

    Returns:
        The names of the options; empty if losses are comparable.

    Example:
        >>> import numpy as np
        >>> none = np.zeros(0)
        >>> configs = [{"data": {"fingerprint": text}} for text in ("3f", "a0")]
        >>> incomparable([RunSummary("", one, none, none, 1e3, 9e4, 9e4, ()) for one in configs])
        ['data/fingerprint']
    """
    return [name for name in differences(runs) if name in _LOSS_DEPENDS_ON]
