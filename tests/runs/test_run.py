"""A run on disk: rows, refusals, checkpoints, and exactness through SIGKILL at any moment."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run
from toy_run import CONFIG, NUM_STEPS, SAVE_EVERY, outcome, toy_loop, toy_state

import lnpjax.runs
from lnpjax.runs import Run, _run, columns, flatten, training_flops
from lnpjax.runs._checkpoints import stored_names

# --- SIGKILL --------------------------------------------------------------------------------------


def launch(path: Path) -> subprocess.Popen[str]:
    """The loop in a process that tells each step's number and then waits for a line."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, toy_run.__file__, str(path)], stdin=pipe, stdout=pipe, text=True
    )


def let_go(process: subprocess.Popen[str], steps: int) -> None:
    assert process.stdin is not None
    process.stdin.write("\n" * steps)
    process.stdin.flush()


def follow(process: subprocess.Popen[str], step: int) -> None:
    """Read on until a step is done."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == step:
            return
        let_go(process, 1)
    raise AssertionError(f"ended before step {step}")


def test_killed_at_random_moments_the_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with Run.create(tmp_path / "whole", CONFIG) as run:
        toy_loop(run, NUM_STEPS, SAVE_EVERY)

    killed, generator = tmp_path / "killed", random.Random(0)
    Run.create(killed, CONFIG).close()
    # Before the first checkpoint, early, late; and somewhere within the steps after each.
    for step in (1, 11, 29, 48):
        process = launch(killed)
        follow(process, step)
        let_go(process, 9)
        follow(process, step + generator.randint(1, 8))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = launch(killed)
    let_go(process, NUM_STEPS)
    assert process.wait() == 0

    assert outcome(killed) == outcome(tmp_path / "whole")
    assert Run.open(killed).columns("train")["step"].tolist() == list(range(NUM_STEPS))


class Died(BaseException):
    """Stands for SIGKILL: no handler of the library runs any more."""


class DyingModule:
    """A module whose functions that change the disk raise `Died` instead of their n-th call.

    A write that dies leaves half of its bytes, as a real one may.
    """

    def __init__(self, module: Any, names: set[str], clock: SimpleNamespace) -> None:
        self._module, self._names, self._clock = module, names, clock

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if name == "fsync":  # against what the death of a process does not lose
            return lambda descriptor: None
        if name not in self._names:
            return function

        def dying(*arguments: Any, **options: Any) -> Any:
            self._clock.calls_left -= 1
            if self._clock.calls_left == 0:
                if name == "write":
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Died
            return function(*arguments, **options)

        return dying


@pytest.mark.parametrize("stride", [1, 3])
def test_death_between_any_two_changes_of_the_disk(
    stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_steps, save_every = 3, 1
    with Run.create(tmp_path / "whole", CONFIG) as run:
        toy_loop(run, num_steps, save_every)
    expected = outcome(tmp_path / "whole")

    clock = SimpleNamespace(calls_left=0)
    changes = {"write", "ftruncate", "rename", "replace"}
    for module in (lnpjax.runs._run, lnpjax.runs._lines, lnpjax._base.files):
        monkeypatch.setattr(module, "os", DyingModule(os, changes, clock))
    for module in (lnpjax.runs._run, lnpjax._base.files):
        monkeypatch.setattr(module, "shutil", DyingModule(shutil, {"rmtree"}, clock))

    def finishes(path: Path, *, dies_at: int) -> bool:
        run = None
        clock.calls_left = dies_at
        try:
            run = Run.create(path, CONFIG, exist_ok=True)
            toy_loop(run, num_steps, save_every)
        except Died:
            return False
        finally:
            if run is not None:
                run.close()  # what the kernel does for a dead process: its lock goes
        return True

    moment, path = 0, tmp_path / "killed"
    while not finishes(path, dies_at=(moment := moment + stride)):
        finishes(path, dies_at=4)  # and again, soon after the resume
        assert finishes(path, dies_at=0)
        assert outcome(path) == expected, moment
        assert len(Run.open(path).checkpoint_steps()) == 2
        shutil.rmtree(path)
    assert moment > 20


def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.append({"kind": "train", "step": 0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with Run.open(tmp_path) as run:
        assert run.rows() == [{"kind": "train", "step": 0}]
        run.append({"kind": "train", "step": 1})
        assert [row["step"] for row in run.rows()] == [0, 1]


# --- rows -----------------------------------------------------------------------------------------


def test_rows_are_strict_json_and_read_back(tmp_path: Path) -> None:
    row = {
        "kind": "lnp",
        "step": np.int64(3),
        "loss": jnp.float32(0.1),
        "half": jnp.asarray(1.5, jnp.bfloat16),
        "infinite": float("inf"),
        "undefined": jnp.asarray(jnp.nan),
        "none": None,
        "flag": np.bool_(True),
        "groups": {"head": {"chi_pos": np.float64(-0.25), "chi_net": np.float32(np.nan)}},
    }
    with Run.create(tmp_path / "run", CONFIG) as run:
        run.append(row)
        (back,) = run.rows("lnp")

    line = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in line
    assert "Infinity" not in line
    assert back["step"] == 3
    assert type(back["step"]) is int
    assert np.float32(back["loss"]) == np.float32(0.1)
    assert back["half"] == 1.5
    assert back["flag"] is True
    assert all(math.isnan(back[name]) for name in ("infinite", "undefined", "none"))
    assert back["groups"]["head"]["chi_pos"] == -0.25
    assert math.isnan(back["groups"]["head"]["chi_net"])


def test_an_append_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        for step in range(3):
            run.append({"kind": "train", "step": step})
            assert [row["step"] for row in Run.open(tmp_path).rows()] == list(range(step + 1))


def test_columns_fill_gaps_with_nan_and_flatten_groups() -> None:
    rows = [
        {"kind": "lnp", "step": 0, "groups": {"a": {"x": 1.0}}},
        {"kind": "train", "step": 0, "loss": 9.0},
        {"kind": "lnp", "step": 5, "chi_pos": None, "groups": {"a": {"x": 2.0}, "b": {"x": 3}}},
    ]
    table = columns(rows, "lnp")
    assert list(table) == ["step", "groups/a/x", "chi_pos", "groups/b/x"]
    assert table["step"].dtype.kind == "i"
    np.testing.assert_array_equal(table["groups/a/x"], [1.0, 2.0])
    np.testing.assert_array_equal(table["groups/b/x"], [np.nan, 3.0])
    np.testing.assert_array_equal(table["chi_pos"], [np.nan, np.nan])
    assert columns(rows, "validation") == {}


def test_flatten_and_flops() -> None:
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": 3}}) == {"a": 1, "b/c/d": 2, "b/e": 3}
    assert training_flops(115_000, 64 * 32) == 6 * 115_000 * 64 * 32


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"step": 1}, ValueError, 'a text under "kind"'),
        ({"kind": "x", "v": np.ones(3)}, TypeError, r"row\['v'\]: expected a scalar.*\(3,\)"),
        ({"kind": "x", "g": {"h": [1]}}, TypeError, r"row\['g'\]\['h'\]: expected a scalar.*list"),
    ],
)
def test_bad_rows_are_refused_and_write_nothing(
    tmp_path: Path, row: Any, error: type[Exception], message: str
) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        with pytest.raises(error, match=message):
            run.append(row)
        assert run.rows() == []


def test_a_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.append({"kind": "train", "step": 0})
        real_write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:5]))
        with pytest.raises(OSError, match="no room"):
            run.append({"kind": "train", "step": 1})
        monkeypatch.undo()
        run.append({"kind": "train", "step": 2})
        assert [row["step"] for row in run.rows()] == [0, 2]


# --- create, open, lock ---------------------------------------------------------------------------


def test_create_refuses_an_existing_run_unless_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    Run.create(path, CONFIG).close()
    with pytest.raises(FileExistsError, match=r"path: expected a new or empty folder.*a run"):
        Run.create(path, CONFIG)
    with Run.create(path, CONFIG, exist_ok=True) as run:
        assert run.config == CONFIG
    with pytest.raises(ValueError, match=r"config: .* model/hidden is 2, got 3"):
        Run.create(path, CONFIG | {"model": {"hidden": 3}}, exist_ok=True)


def test_create_refuses_foreign_folders_and_loose_configs(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="holds other files"):
        Run.create(tmp_path, CONFIG, exist_ok=True)
    with pytest.raises(FileExistsError, match="expected a new or empty folder"):
        Run.create(tmp_path / "thesis.tex", CONFIG)
    with pytest.raises(ValueError, match="config: expected what JSON can hold"):
        Run.create(tmp_path / "new", {"rate": float("nan")})
    assert not (tmp_path / "new").exists()


def test_open_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere, which is not a folder"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object"):
        Run.open(tmp_path)


@pytest.mark.parametrize("bad", ["{oops", '{"step": 1}', "[]", "", '{"kind": "x", "v": NaN}'])
def test_a_corrupt_row_is_named_by_file_and_line(tmp_path: Path, bad: str) -> None:
    Run.create(tmp_path, CONFIG).close()
    good = json.dumps({"kind": "train", "step": 0})
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{bad}\n{good}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a row"):
        Run.open(tmp_path)


def test_only_one_process_writes_and_readers_are_free(tmp_path: Path) -> None:
    command = (
        f"from lnpjax.runs import Run\nrun = Run.open({str(tmp_path)!r})\nprint(len(run.rows()))\n"
        "run.append({'kind': 'train', 'step': 1})"
    )
    with Run.create(tmp_path, CONFIG) as run:
        run.append({"kind": "train", "step": 0})
        other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
        assert other.stdout == "1\n"
        assert f"process {os.getpid()} is writing to" in other.stderr
        with pytest.raises(RuntimeError, match="nothing else writes to"):
            Run.open(tmp_path).restore(toy_state())
    with Run.open(tmp_path) as later:
        later.append({"kind": "train", "step": 1})
        assert len(later.rows()) == 2


# --- checkpoints ----------------------------------------------------------------------------------


def mixed_state() -> dict[str, Any]:
    return {
        "params": [jnp.linspace(0, 1, 6, dtype=jnp.bfloat16).reshape(2, 3), {"b": jnp.ones(())}],
        "typed_key": jax.random.key(3),
        "rbg_keys": jax.random.split(jax.random.key(5, impl="rbg"), 2),
        "raw_key": jax.random.PRNGKey(4),
        "count": jnp.asarray(2**31 - 1, jnp.int32),
        "bits": np.asarray([0, 2**64 - 1], np.uint64),
        "double": np.float64(math.pi),
        "empty": jnp.zeros((0, 3), jnp.float16),
        "no_keys": jax.random.split(jax.random.key(0), 0),
        "weak": jnp.asarray(0.25),
        "flag": np.asarray(True),
        "nan": np.asarray([np.nan, -0.0, np.inf], np.float32),
        "python": (3, 0.1, True, None, 2**64 - 1, 2**64, -(2**127), 255 * 2**120, -(2**63) - 1),
    }


@pytest.mark.parametrize("abstract", [False, True])
def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path: Path, abstract: bool) -> None:
    state = mixed_state()
    target = mixed_state()
    if abstract:
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x,
            target,
        )
    with Run.create(tmp_path, CONFIG) as run:
        run.save(5, state, {"order": [1, 2], "name": "x"})
        restored = run.restore(target)
    assert restored is not None
    step, back, extra = restored
    assert (step, extra) == (5, {"order": [1, 2], "name": "x"})
    assert jax.tree.structure(back) == jax.tree.structure(state)
    pairs = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(back), strict=True)
    for (path, was), now in pairs:
        assert type(now) is type(was), path
        if isinstance(was, jax.Array):
            assert now.committed == was.committed, path
            assert getattr(now, "weak_type", None) == getattr(was, "weak_type", None), path
        if not hasattr(was, "dtype"):
            assert now == was, path
            continue
        assert now.dtype == was.dtype, path
        assert now.shape == was.shape, path
        if jax.dtypes.issubdtype(was.dtype, jax.dtypes.prng_key):
            was, now = jax.random.key_data(was), jax.random.key_data(now)
        assert np.asarray(now).tobytes() == np.asarray(was).tobytes(), path
    assert jax.random.bits(back["typed_key"]) == jax.random.bits(state["typed_key"])


def test_a_sharded_leaf_comes_back_in_the_sharding_asked_for(tmp_path: Path) -> None:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state = {"w": jax.device_put(jnp.arange(4.0), sharding), "key": jax.random.key(1)}
    with Run.create(tmp_path, CONFIG) as run:
        run.save(1, state)
        restored = run.restore(state)
    assert restored is not None
    assert restored.state["w"].sharding == sharding
    np.testing.assert_array_equal(restored.state["w"], np.arange(4.0))
    jax.jit(lambda s: s["w"] + jax.random.normal(s["key"]))(restored.state)


def test_restore_cuts_later_rows_and_read_checkpoint_does_not(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        for step in (1, 2, 3):
            run.append({"kind": "train", "step": step})
            run.save(step, {"w": np.full(2, step)})
        run.append({"kind": "train", "step": 4})
        assert run.checkpoint_steps() == [2, 3]
        second = run.read_checkpoint({"w": np.zeros(2, int)}, step=2)
        assert second is not None
        assert second.state["w"].tolist() == [2, 2]
        assert len(run.rows()) == 4
        with pytest.raises(ValueError, match=r"step: expected one of \[2, 3\], got 1"):
            run.read_checkpoint({"w": np.zeros(2, int)}, step=1)
        restored = run.restore({"w": np.zeros(2, int)})
        assert restored is not None
        assert restored.step == 3
        assert [row["step"] for row in run.rows()] == [1, 2, 3]


def test_restore_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.append({"kind": "train", "step": 0})
        with pytest.warns(UserWarning, match=r"no checkpoint: the run starts over.*cut\.jsonl"):
            assert run.restore(toy_state()) is None
        assert run.rows() == []
    assert (tmp_path / "cut.jsonl").read_text() == '{"kind": "train", "step": 0}\n'


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            {"a": np.zeros(3, np.float32), "b": {"c": np.zeros((2, 3), np.float32)}},
            r"state\['b'\]\['c'\] is float32\[2,2\], got one where it is float32\[2,3\]",
        ),
        (
            {"a": np.zeros(3, np.int32), "b": {"c": np.zeros(9, np.float32)}},
            r"state\['a'\] is float32\[3\], got one where it is int32\[3\]",
        ),
        (
            {"a": np.zeros(3, np.float32)},
            r"state\['b'\]\['c'\] is float32\[2,2\], got one where it is absent",
        ),
        (
            {"a": np.zeros(3, np.float32), "a2": 1, "b": {"c": np.zeros((2, 2), np.float32)}},
            r"state\['a2'\] is absent, got one where it is Python int",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_cuts_nothing(
    tmp_path: Path, target: Any, message: str
) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.save(1, {"a": np.zeros(3, np.float32), "b": {"c": np.zeros((2, 2), np.float32)}})
        run.append({"kind": "train", "step": 1})
        with pytest.raises(ValueError, match=r"abstract_state: .*checkpoint 1 of.*" + message):
            run.restore(target)
        assert len(run.rows()) == 1


def test_bad_checkpoints_are_refused(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        with pytest.raises(TypeError, match=r"state\['f'\]: expected an array.*got function"):
            run.save(1, {"f": lambda: 0})
        with pytest.raises(ValueError, match="extra: expected what JSON can hold"):
            run.save(1, toy_state(), {"x": np.ones(2)})
        run.append({"kind": "train", "step": 0})
        run.save(4, toy_state())
        with pytest.raises(ValueError, match="step: expected at least 4, the last saved, got 3"):
            run.save(3, toy_state())
        (tmp_path / "metrics.jsonl").write_text("")
        with pytest.raises(ValueError, match=r"metrics\.jsonl: expected the 29 bytes.*got 0 bytes"):
            run.restore(toy_state())


def test_damaged_checkpoint_files_are_named(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.save(4, toy_state())
        folder = tmp_path / "checkpoints" / "0000000004"
        shutil.rmtree(folder / "arrays")
        with pytest.raises(ValueError, match=r"0000000004/arrays: expected the arrays of a"):
            run.restore(toy_state())
        (folder / "checkpoint.json").write_text("{")
        with pytest.raises(ValueError, match=r"checkpoint\.json: expected a JSON object"):
            run.restore(toy_state())


# --- spectra --------------------------------------------------------------------------------------


def test_spectra_round_trip(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        halves = jnp.asarray([1.5, 2.5], jnp.bfloat16)
        file = run.save_spectrum("step-10", eigenvalues=jnp.arange(3.0), name=halves)
        assert file == tmp_path / "spectra" / "step-10.npz"
        run.save_spectrum("step-10", eigenvalues=jnp.arange(4.0), name=halves)
        assert run.spectra() == ["step-10"]
        back = run.spectrum("step-10")
        np.testing.assert_array_equal(back["eigenvalues"], np.arange(4.0))
        np.testing.assert_array_equal(back["name"], [1.5, 2.5])
        with pytest.raises(FileNotFoundError, match=r"one of the run's spectra, \['step-10'\]"):
            run.spectrum("step-11")
        with pytest.raises(ValueError, match=r"name: expected letters.*'\.\./x'"):
            run.save_spectrum("../x", a=np.ones(1))
        with pytest.raises(ValueError, match='arrays: expected another name than "file"'):
            run.save_spectrum("x", file=np.ones(1))
        with pytest.raises(ValueError, match="a: expected an array of numbers"):
            run.save_spectrum("x", a=np.asarray([None]))


def test_sessions_are_apart_from_the_metrics(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.append({"kind": "train", "step": 0})
        run.append_session({"kind": "session", "seconds": 2.0, "plain_tokens_per_second": math.nan})
        with pytest.raises(ValueError, match='a text under "kind"'):
            run.append_session({"seconds": 2.0})
        with pytest.warns(UserWarning, match="starts over"):
            run.restore({})
        assert run.rows() == []
        (session,) = Run.open(tmp_path).sessions()
        assert session["seconds"] == 2.0
        assert math.isnan(session["plain_tokens_per_second"])
        with (tmp_path / "sessions.jsonl").open("a") as file:
            file.write('{"kind": "sess')  # a kill in mid-write
        run.append_session({"kind": "session", "seconds": 3.0})
        assert [row["seconds"] for row in run.sessions()] == [2.0, 3.0]


# --- what arrays are called on disk ---------------------------------------------------------------


def named_state():
    params = {"layers": [{"kernel": np.ones((2, 3))}, {"kernel": np.zeros(3)}], "empty": np.ones(0)}
    return {"params": params, "step": 7}


def test_arrays_have_their_own_names_on_disk(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with Run.create(tmp_path / "run", {}) as run:
        run.save(1, named_state())
    folder = tmp_path / "run" / "checkpoints" / f"{1:010d}" / "arrays"
    tree = checkpoint.PyTreeCheckpointer().restore(folder)
    np.testing.assert_array_equal(tree["params"]["layers"]["0"]["kernel"], np.ones((2, 3)))
    assert tree["step"] == 7


def test_a_part_of_a_state_is_read_alone(tmp_path):
    with Run.create(tmp_path / "run", {}) as run:
        assert run.read_part("params", named_state()["params"]) is None
        run.save(1, named_state(), {"note": "first"})
        step, params, extra = run.read_part("params", named_state()["params"])
        jax.tree.map(np.testing.assert_array_equal, params, named_state()["params"])
        assert (step, extra) == (1, {"note": "first"})
        assert run.read_part("step", 0).state == 7
        with pytest.raises(ValueError, match=r"abstract_state: expected .*other.* is absent"):
            run.read_part("other", {"w": np.ones(2)})
        with pytest.raises(ValueError, match=r"expected the state of .*, where .* is float64\[0\]"):
            run.read_part("params", {"layers": named_state()["params"]["layers"]})


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (np.ones(2), ["state"]),
        ({"a": [1, 2], "b": 3}, ["a/0", "a/1", "b"]),
        ({"a": {"b": 1}, "a/b": 2}, ["0", "1"]),
        ({"a": 1, "a/b": 2}, ["0", "1"]),
        ({"": 1}, ["0"]),
    ],
)
def test_names_tell_leaves_apart_or_are_numbers(state, names, tmp_path):
    assert stored_names(state) == names
    with Run.create(tmp_path / "run", {}) as run:
        run.save(1, state)
        jax.tree.map(np.testing.assert_array_equal, run.read_checkpoint(state).state, state)


def test_numbered_arrays_of_earlier_versions_are_read(tmp_path, monkeypatch):
    state = named_state()
    monkeypatch.setattr(
        _run, "stored_names", lambda tree: [str(i) for i in range(len(jax.tree.leaves(tree)))]
    )
    with Run.create(tmp_path / "run", {}) as run:
        run.save(1, state)
    file = tmp_path / "run" / "checkpoints" / f"{1:010d}" / "checkpoint.json"
    metadata = json.loads(file.read_text())
    del metadata["names"], metadata["sha256"]
    file.write_text(json.dumps(metadata))
    with Run.open(tmp_path / "run") as run:
        jax.tree.map(np.testing.assert_array_equal, run.restore(state).state, state)
        params = run.read_part("params", state["params"]).state
        jax.tree.map(np.testing.assert_array_equal, params, state["params"])
