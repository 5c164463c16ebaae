"""How the commands show paths."""

from __future__ import annotations

from pathlib import Path


def shown(path: Path) -> str:
    """A path as short as it can be for someone in the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
