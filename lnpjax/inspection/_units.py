"""The units of the numbers of an inspection."""

from __future__ import annotations

from lnpjax.runs._rows import MEASURED, POSITION_ARRAYS, SPECTRUM_NUMBERS, Field

DIMENSIONLESS = "dimensionless"
_SEM = "_sem"
_ERROR_EIGENVALUE = "nats^2 per parameter^2"
_EIGENVALUE = "output^2 per parameter^2"


def _units(fields: tuple[Field, ...]) -> dict[str, str]:
    return {field.name: field.unit.replace("$", "") or DIMENSIONLESS for field in fields}


_SPECTRUM = _units(SPECTRUM_NUMBERS)
_OF_PART = {
    "loss": {
        "loss": "nats",
        "accuracy": "share of targets",
        "perplexity": DIMENSIONLESS,
        "classes": "classes",
        "chance": "nats",
    },
    "components": _units(MEASURED),
    "learning": {
        **_units(POSITION_ARRAYS),
        "loss": "nats",
        **dict.fromkeys(("tenth", "median", "ninetieth"), "share of the trace"),
        "trace": _EIGENVALUE,
    },
    "shells": {
        **dict.fromkeys(("peak", "cutoff", "blend_center", "lowest"), _ERROR_EIGENVALUE),
        **dict.fromkeys(("peak_energy", "low_amplitude", "high_amplitude"), "nats^2"),
        "rate": f"1 / ({_ERROR_EIGENVALUE})",
        "blend_width": "ln of the eigenvalue",
        "residual": "ln of the energy",
        "num_points": "shells",
        "batches": "batches",
    },
    "density": {
        "dimension": "eigenvalues",
        "largest": _EIGENVALUE,
        "trace": _EIGENVALUE,
        "effective_rank": "modes",
        "effective_rank_half": "modes",
        "products": "products with the kernel",
    },
    "activations": {**_SPECTRUM, "trace": "activation^2"},
    "gradients": {**_SPECTRUM, "trace": "nats^2 per parameter^2"},
    "weights": {**_SPECTRUM, "trace": "parameter^2"},
}


def unit_of_number(part: str, name: str) -> str:
    """Return the unit of a number of a part; a standard error has that of its number.

    Args:
        part: the part's name.
        name: the number's, without what it is nested in.

    Example:
        >>> unit_of_number("components", "chi_net_sem"), unit_of_number("density", "largest")
        ('output^2 per parameter^2', 'output^2 per parameter^2')
    """
    units = _OF_PART[part]
    return units.get(name) or units.get(name.removesuffix(_SEM), DIMENSIONLESS)
