"""Numbers of groups of runs that differ by their seed, and what the scatter among seeds tells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import Uncertain

Groups = Mapping[str, Float[np.ndarray, " seeds"]]
"""A number by group of runs, such as a variant, of each of its seeds."""


def scatter(groups: Groups) -> tuple[float, int]:
    """Return the standard deviation among seeds, about each group's mean, and its freedom."""
    repeated = [values for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(float(np.sum((values - values.mean()) ** 2)) for values in repeated)
    return ((squares / freedom) ** 0.5 if freedom else np.nan), freedom


def contrast(groups: Groups, weights: Mapping[str, float]) -> Uncertain:
    """Return a weighted sum of the groups' means, with the error that the seeds show.

    Example:
        >>> groups = {"a": np.array([1.0, 3.0]), "b": np.array([5.0])}
        >>> contrast(groups, {"a": -1.0, "b": 1.0}).value
        3.0
    """
    deviation, freedom = scatter(groups)
    value = sum(weight * groups[name].mean() for name, weight in weights.items())
    variance = sum(weight**2 / len(groups[name]) for name, weight in weights.items())
    return Uncertain(float(value), deviation * variance**0.5, freedom)
