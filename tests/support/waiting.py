"""Waiting for what another process does, and what a file should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def wait_until(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Poll a condition; fail if it does not hold within a generous deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} s"
        time.sleep(0.001)


def is_whole_png(path: Path) -> bool:
    """Return whether a file is a PNG from its signature to its last chunk."""
    content = path.read_bytes()
    return content.startswith(PNG_START) and content.endswith(PNG_END)
