"""How figures of experiments are written: small enough to be kept with the rows they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure without loss: bands have many shades, which a palette of few would merge.

    Args:
        figure: finished.
        path: of the PNG.
    """
    figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
