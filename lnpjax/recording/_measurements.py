"""What a run keeps of each kind of measurement."""

from __future__ import annotations

from typing import Any

import numpy as np

from lnpjax.decomposition import LNP
from lnpjax.runs._rows import (
    GROUP_PARTS,
    MEASURED,
    POSITION_ARRAYS,
    POSITION_FILE,
    POSITION_NUMBERS,
    QUADRATURE_ARRAYS,
)
from lnpjax.spectra import PositionDistribution


def lnp_fields(window: int, lnp: LNP) -> dict[str, Any]:
    """Return the fields of an "lnp" row (`lnpjax.runs._rows`).

    Args:
        window: the number of its window.
        lnp: the measurement.
    """
    scalars = {field.name: np.asarray(getattr(lnp, field.name)).item() for field in MEASURED}
    groups = {
        name: {part.name: float(getattr(group, part.name)) for part in GROUP_PARTS}
        for name, group in lnp.groups.items()
    }
    return {"window": window, **scalars, "groups": groups}


def distribution_fields(distribution: PositionDistribution) -> dict[str, Any]:
    """Return the fields of a "distribution" row.

    Args:
        distribution: the measurement.
    """
    return {
        field.name: np.asarray(getattr(distribution, field.name)).item()
        for field in POSITION_NUMBERS
    }


def save_distribution(run: Any, step: int, distribution: PositionDistribution) -> None:
    """Write how learning is distributed over the spectrum to `spectra/position-STEP.npz`.

    Args:
        run: where; anything with the method `save_spectrum` of a `Run`.
        step: of the measurement; also saved.
        distribution: what was measured.
    """
    sources = ((distribution, POSITION_ARRAYS), (distribution.measure, QUADRATURE_ARRAYS))
    arrays = {
        field.name: np.asarray(getattr(source, field.name))
        for source, fields in sources
        for field in fields
    }
    run.save_spectrum(POSITION_FILE.name(step), step=np.asarray(step), **arrays)
