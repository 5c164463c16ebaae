"""Parts of a benchmark that need a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def found_by(module, *arguments, **environment):
    """What a module of the benchmarks prints as JSON, in a fresh Python.

    Raises:
        RuntimeError: if it fails, with what it has written to standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
