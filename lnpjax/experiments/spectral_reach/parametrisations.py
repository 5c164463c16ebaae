"""The parametrisations that networks of several widths are compared in (Spectral Reach, D.3)."""

from __future__ import annotations

from typing import Literal

Arm = Literal["standard", "mup"]
ARMS: tuple[Arm, ...] = ("standard", "mup")
NAMES: dict[str, str] = {"standard": "standard", "mup": "muP"}
