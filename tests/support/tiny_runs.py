"""How the small run that many tests share is made: whoever makes another shares its programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OPTIONS = {
    "--hidden-size": 8, "--intermediate-size": 8, "--num-layers": 1, "--num-heads": 2,
    "--context-length": 8, "--batch-size": 4, "--num-validation": 6, "--steps": 12,
    "--window-width": 2, "--distribution": 5, "--checkpoint-every": 4, "--checkpoints-kept": 3,
}  # fmt: skip


def arguments(data: Path | str, **changes: Any) -> list[str]:
    """The command line of such a run; changes are options by their names in Python."""
    named = {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    options = {"--data": data} | OPTIONS | named
    return ["train", *(str(part) for pair in options.items() for part in pair)]


def rows_but_distributions(run: Path) -> list[str]:
    """The lines that such a run has without `--distribution`, a third of its programs."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in lines if json.loads(line)["kind"] != "distribution"]
