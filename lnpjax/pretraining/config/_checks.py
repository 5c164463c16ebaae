"""What several options are checked for."""

from __future__ import annotations

from typing import Any

from lnpjax._base.checks import require


def require_divisible(argument: str, value: int, data: int) -> None:
    """Refuse a number of samples that cannot be spread evenly over the axis data of a mesh."""
    expected = f"a multiple of {data}, over as many devices the mesh spreads samples"
    require(value % data == 0, argument, expected=expected, got=value)


def require_at_most(argument: str, value: int, most: int) -> None:
    """Refuse an integer that is too large."""
    require(value <= most, argument, expected=f"an integer <= {most}", got=value)


def require_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of the choices."""
    require(value in choices, argument, expected=f"one of {', '.join(choices)}", got=repr(value))
