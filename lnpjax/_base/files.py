"""Files that are there whole or not at all, whenever the process or the power goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file that never holds half of the content, not even after a power cut."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    sync(temporary)
    os.replace(temporary, file)
    sync(file.parent)


def sync(*paths: Path) -> None:
    """Have files and folders written out, so that what is renamed next outlives a power cut too."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove a folder under another name, so that half of one never looks complete."""
    discarded = folder.with_name(".discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    os.rename(folder, discarded)
    shutil.rmtree(discarded)
