"""What the figures and the claims of the noise experiment read off its finished sweep."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep


def curves(
    sweep: Sweep, column: str, **where: object
) -> tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, "members epochs"]]:
    """A column over training, for the members of one network and share: epochs, and values."""
    rows = sweep.rows(**where)
    members = sorted({row["member"] for row in rows})
    epochs = [row["epoch"] for row in rows if row["member"] == members[0]]
    values = [[row[column] for row in rows if row["member"] == member] for member in members]
    return np.array(epochs, float), np.array(values)


def networks_by_set(sweep: Sweep) -> dict[str, list[str]]:
    """Return the networks of every image set, in the order of the rows."""
    found: dict[str, list[str]] = {}
    for row in sweep.rows():
        names = found.setdefault(row["set"], [])
        if row["network"] not in names:
            names.append(row["network"])
    return found
