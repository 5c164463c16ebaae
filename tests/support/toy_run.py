"""A training loop so small that its whole run takes a second; as a script, one that tests kill."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lnpjax.runs import Checkpoint, Run

NUM_STEPS, SAVE_EVERY = 60, 7
CONFIG = {"lnpjax_version": "0", "num_parameters": 4, "model": {"hidden": 2}}


def toy_state() -> dict[str, Any]:
    return {"key": np.asarray([7, 11], np.uint32), "w": np.ones(4, np.float32), "count": 0}


def toy_step(state: dict[str, Any]) -> dict[str, Any]:
    """Chaotic, so that one repeated, lost or rounded step shows in every later number."""
    mixed = (state["key"] * np.uint32(1664525) + np.uint32(1013904223)) ^ (state["key"] >> 3)
    noise = np.resize(mixed, 4).astype(np.float32) / np.float32(2**32)
    w = np.float32(3.9) * (state["w"] % 1) * (1 - state["w"] % 1) + noise * np.float32(1e-3)
    return {"key": mixed, "w": w, "count": state["count"] + 1}


def toy_loop(
    run: Run, num_steps: int, save_every: int, after: Callable[[int], object] = lambda _: None
) -> None:
    start, state, _ = run.restore(toy_state()) or Checkpoint(0, toy_state(), {})
    for step in range(start, num_steps):
        state = toy_step(state)
        run.append({"kind": "train", "step": step, "loss": state["w"].sum()})
        if step % 3 == 0:
            groups = {"head": {"chi_net": state["w"][0], "chi_pos": np.nan}}
            run.append({"kind": "lnp", "step": step, "groups": groups})
        if (step + 1) % save_every == 0:
            run.save(step + 1, state, {"position": step})
        after(step)
    run.save(num_steps, state)


def outcome(path: Path) -> tuple[bytes, bytes, int]:
    with Run.open(path) as run:
        checkpoint = run.read_checkpoint(toy_state())
    assert checkpoint is not None
    state = checkpoint.state
    weights = b"".join(state[name].tobytes() for name in ("key", "w"))
    return (path / "metrics.jsonl").read_bytes(), weights, state["count"]


def tell_and_wait(step: int) -> None:
    print(step, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    with Run.open(sys.argv[1]) as the_run:
        toy_loop(the_run, NUM_STEPS, SAVE_EVERY, after=tell_and_wait)
