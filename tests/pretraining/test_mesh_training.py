"""Training over many devices, and over several processes, against the same training on one.

The devices are forced ones of the CPU, which only a process of its own can have.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnpjax.data import Batches, Dataset
from lnpjax.pretraining import (
    DataOptions,
    Experiment,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    TrainingOptions,
    create_run,
    pretrain,
)
from lnpjax.runs import Run, flatten

OPTIONS = (
    "--max-bytes 20000 --context-length 8 --num-validation 8 --hidden-size 8 --num-heads 2 "
    "--intermediate-size 16 --num-layers 1 --batch-size 8 --steps 6 --window-width 1 "
    "--validate-every 4 --checkpoint-every 100"
)
MODEL = ModelOptions(hidden_size=8, num_heads=2, intermediate_size=16, num_layers=1)
DATA = DataOptions(max_bytes=20_000, context_length=8, num_validation=8)
TRAINING = TrainingOptions(steps=6, batch_size=8, validate_every=4, checkpoint_every=100)
MEASUREMENT = MeasurementOptions(window_width=1, distribution=3)

RELATIVE = 2e-5
# Differences of two losses of 5.5, each of which is right to some 1e-6 of that.
CANCELLING, ABSOLUTE = ("loss_change", "nu"), 1.1e-5


def resolve(dataset: Dataset) -> PretrainConfig:
    return PretrainConfig.resolve(
        dataset, model=MODEL, data=DATA, training=TRAINING, measurement=MEASUREMENT
    )


def execute(experiment: Experiment, path: Path) -> Path:
    with create_run(experiment.config, experiment.dataset, path) as run:
        assert pretrain(experiment, run).status == "finished"
    return path


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    dataset = DATA.load()
    return Experiment(resolve(dataset), dataset)


@pytest.fixture(scope="module")
def reference(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return execute(experiment, tmp_path_factory.mktemp("one device") / "run")


def differences(left: Path, right: Path) -> list[tuple[Any, ...]]:
    """Where the rows of two runs differ, beyond the rounding of float32."""
    ours, theirs = (list(map(flatten, Run.open(path).rows())) for path in (left, right))
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    return [
        (row["kind"], row["step"], name, value, other[name])
        for row, other in zip(ours, theirs, strict=True)
        for name, value in row.items()
        if not equal(name, value, other[name])
    ]


def equal(name: str, left: Any, right: Any) -> bool:
    if isinstance(left, str):
        return left == right
    absolute = ABSOLUTE if name in CANCELLING else 0
    return math.isclose(left, right, rel_tol=RELATIVE, abs_tol=absolute)


def start(devices: int, script: str, *arguments: object) -> subprocess.Popen[str]:
    force = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {force}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"hangs after:\n{output}")
    return process.returncode, output


EIGHT_DEVICES = """
import dataclasses, pathlib, sys
import jax
import numpy as np
from lnpjax.pretraining import Experiment
from lnpjax.pretraining import PretrainConfig
from lnpjax.pretraining import pretrain
from lnpjax.pretraining import create_run, load_same_data
from lnpjax.runs import Run
from lnpjax.sharding import make_mesh

reference, folder = Run.open(sys.argv[1]), pathlib.Path(sys.argv[2])
config = PretrainConfig.from_json(reference.config, source="the run on one device")
dataset = load_same_data(config, reference.config, reference.path)
training = dataclasses.replace(config.training, mesh="data=4,model=2")
config = dataclasses.replace(config, training=training)
experiment = Experiment(config, dataset, mesh=make_mesh(config.training.mesh))

with create_run(config, dataset, folder / "whole") as run:
    assert pretrain(experiment, run).status == "finished"
steps = iter(range(6))
with create_run(config, dataset, folder / "stopped") as run:
    assert pretrain(experiment, run, should_stop=lambda: next(steps) == 3).steps_done == 3
with Run.open(folder / "stopped") as run:
    assert pretrain(experiment, run).status == "finished"

ends = [
    Run.open(folder / name).read_checkpoint(experiment.abstract_state()).state
    for name in ("whole", "stopped")
]
for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_array_equal(one, other)
starts = jax.tree.leaves(experiment.initial_state())
for start, end in zip(starts, jax.tree.leaves(ends[0]), strict=True):
    assert start.sharding == end.sharding
    held = max(shard.data.size for shard in end.addressable_shards)
    assert held == (end.size if end.ndim < 2 else end.size // 8), (end.shape, held)
single = Run.open(folder / "whole").read_checkpoint(Experiment(config, dataset).abstract_state())
for one, other in zip(jax.tree.leaves(single.state), jax.tree.leaves(ends[0]), strict=True):
    assert len(one.sharding.device_set) == 1
    np.testing.assert_array_equal(one, other)
"""


def test_eight_devices_do_what_one_does(reference: Path, tmp_path: Path) -> None:
    status, output = ended(start(8, EIGHT_DEVICES, reference, tmp_path))
    assert status == 0, output
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert differences(reference, whole) == []
    one, many = Run.open(reference), Run.open(whole)
    assert one.spectra() == many.spectra() != []
    for name in one.spectra():
        ours, theirs = one.spectrum(name), many.spectrum(name)
        np.testing.assert_allclose(theirs["chi_pos"], ours["chi_pos"], rtol=RELATIVE)
        np.testing.assert_allclose(theirs["p"], ours["p"], rtol=1e-3, atol=1e-6)
    assert (whole / "metrics.jsonl").read_bytes() == (stopped / "metrics.jsonl").read_bytes()


def test_another_order_of_the_data_makes_other_rows(
    reference: Path, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Batches(experiment.dataset, TRAINING.batch_size, seed=1)
    monkeypatch.setattr(experiment, "batches", other)
    assert differences(reference, execute(experiment, tmp_path / "run"))


TWO_PROCESSES = """
import contextlib, sys
from lnpjax import cli
from lnpjax.commands import train
from lnpjax.pretraining.processes import ProcessOptions, joined

folder, port, process, *options = sys.argv[1:]
group = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", process]
new = ["train", *options, *group, "--mesh", "data=2,model=2", "--out"]

assert cli.main([*new, folder]) == 2  # holds a file

run = f"{folder}/run"
wait_for_a_signal = train.catch_stop_signal
if process == "1":
    train.catch_stop_signal = lambda: contextlib.nullcontext([2])
assert cli.main([*new, run]) == 128 + (2 if process == "1" else 15)
train.catch_stop_signal = wait_for_a_signal
assert cli.main(["train", "--resume", run, *group]) == 0

print("so far", flush=True)
options = ProcessOptions(coordinator="there", processes=2, process=int(process))
with joined(options) as processes:
    if processes.is_first:
        raise OSError("no space left on device")
    processes.together(lambda: None)
"""


def test_two_processes_do_what_one_does_and_write_everything_once(
    reference: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "mine.txt").touch()
    processes = [
        start(2, TWO_PROCESSES, tmp_path, port, process, *OPTIONS.split()) for process in (0, 1)
    ]
    (first, words), (second, silence) = map(ended, processes)
    both = f"process 0:\n{words}\nprocess 1:\n{silence}"

    assert "so far" in words, both
    assert "so far" in silence, both
    assert first == 1, both  # it alone ran out of space, and did not wait for the other
    assert second not in (0, None), both

    refusal = f"path: expected a new or empty folder (Run.open goes on with a run), got {tmp_path}"
    assert f"lnpjax: {refusal}" in words
    assert f"lnpjax: process 0: {refusal}" in silence
    assert "stopped after 4 of 6 steps" in words
    assert "chi_pos" in words
    assert "chi_pos" not in silence

    run = tmp_path / "run"
    assert differences(reference, run) == []
    (*_, last) = Run.open(run).sessions()
    assert [last["first_step"], last["last_step"]] == [4, 5]
    assert len(Run.open(run).sessions()) == 2
    assert json.loads((run / "config.json").read_text())["training"]["mesh"] == "data=2,model=2"
    assert Run.open(run).checkpoint_steps() == [4, 6]
