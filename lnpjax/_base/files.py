"""Files that are there whole or not at all, whenever the process or the power goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file that never holds half of the content, not even after a power cut.

    A link of either name is replaced, not followed.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    sync(temporary)
    os.replace(temporary, file)
    sync(file.parent)


def sync(*paths: Path) -> None:
    """Have files and folders written out, so that what is renamed next outlives a power cut too."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def append_synced(file: Path, content: bytes) -> None:
    """Append to a file, which holds the content when this returns, even after a power cut."""
    with file.open("ab") as stream:
        stream.write(content)
    sync(file, file.parent)


def discard(folder: Path) -> None:
    """Remove a folder under another name, so that half of one never looks complete."""
    discarded = folder.with_name(".discarded")
    set_aside(folder, discarded)
    shutil.rmtree(discarded)


def set_aside(folder: Path, name: Path) -> None:
    """Rename a folder; one that has the new name already is removed."""
    shutil.rmtree(name, ignore_errors=True)
    os.rename(folder, name)
    sync(name.parent)
