"""Who writes to a folder of results: one process at a time, and only to files of its own."""

from __future__ import annotations

import os
import stat
import weakref
from io import FileIO
from pathlib import Path

from lnpjax._base.checks import require
from lnpjax.runs._rows import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    CUT_FILE,
    FIGURES_FOLDER,
    LOCK_FILE,
    METRICS_FILE,
    SESSIONS_FILE,
    SPECTRA_FOLDER,
)

FILES = (CONFIG_FILE, METRICS_FILE, SESSIONS_FILE, CUT_FILE, LOCK_FILE)
FOLDERS = (SPECTRA_FOLDER, CHECKPOINTS_FOLDER, FIGURES_FOLDER)


class Lock:
    """The lock of a folder of results, held until `release` or the death of the process.

    Both the folder and its file `.lock` are locked: the file tells others who holds it, and
    removing it lets nobody in.

    Raises:
        RuntimeError: if another process, or another `Lock`, holds it.
    """

    def __init__(self, folder: Path) -> None:
        owner = FileIO(folder / LOCK_FILE, "a+")
        descriptors = [os.dup(owner.fileno()), os.open(folder, os.O_RDONLY)]
        self._release = weakref.finalize(self, _close, descriptors)
        with owner:
            if not all(_locked(descriptor) for descriptor in descriptors):
                self.release()
                owner.seek(0)
                process = owner.read().decode(errors="replace").strip() or "another"
                raise RuntimeError(
                    f"path: expected a folder that nothing else writes to, got {folder}, which "
                    f"process {process} is writing to (wait for it, or name another folder)"
                )
            owner.truncate(0)
            owner.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others write."""
        self._release()


def _locked(descriptor: int) -> bool:
    """Lock what a descriptor stands for, unless somebody else has."""
    import fcntl  # here, because reading a run does not need POSIX

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems lock files only
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    return True


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def check_own_files(folder: Path) -> None:
    """Refuse a run folder whose files are elsewhere, so that nothing elsewhere is overwritten.

    Args:
        folder: the run's; it may itself be reached through a link.

    Raises:
        OSError: if one of the files or folders of a run is a link, or of a special kind.
    """
    for name in FILES:
        refuse_link(folder / name)
    for name in FOLDERS:
        refuse_links_in(folder / name)


def refuse_links_in(folder: Path) -> None:
    """Refuse a folder that is a link, or holds one; it need not be there.

    Raises:
        OSError: if there is a link, or something else that is neither a file nor a folder.
    """
    refuse_link(folder)
    for entry in folder.iterdir() if folder.is_dir() else ():
        refuse_link(entry)


def refuse_link(path: Path) -> None:
    """Refuse a path that is there and neither a file nor a folder.

    Raises:
        OSError: if it is a link, or of a special kind.
    """
    if not os.path.lexists(path):
        return
    mode = path.lstat().st_mode
    expected = "a file or folder of its own (remove it, or put a copy there)"
    got = "a link" if stat.S_ISLNK(mode) else "something else"
    own = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    require(own, str(path), expected=expected, got=got, error=OSError)
