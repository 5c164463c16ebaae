"""What a saved figure should be."""

from __future__ import annotations

from pathlib import Path

START, END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def is_whole_png(path: Path) -> bool:
    """Return whether a file is a PNG from its signature to its last chunk."""
    content = path.read_bytes()
    return content.startswith(START) and content.endswith(END)
