from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import lnpjax
from lnpjax._base.reporting import Reporter
from lnpjax.decomposition import GroupLNP
from lnpjax.pretraining.recorder import STEPS_AHEAD, NonFiniteLossError, Recorder, Speed
from lnpjax.runs import Run
from lnpjax.runs._rows import GROUP_PARTS, MEASURED, SESSION


class Ear(Reporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.updates: list[tuple[int, float, float | None]] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        self.updates.append((step, loss, chi_pos))


class Paper:
    def __init__(self) -> None:
        self.written: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, scalars: Any) -> None:
        self.written.append((step, dict(scalars)))

    def close(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {})


def recorder(run: Run, **changes: Any) -> Recorder:
    keywords = {
        "writers": (), "reporter": Reporter(), "tokens_per_step": 10, "num_parameters": 2,
        "log_every": 1,
    }  # fmt: skip
    return Recorder(run, **(keywords | changes))


def metrics(loss: float) -> dict[str, Any]:
    return {"loss": jnp.float32(loss), "learning_rate": jnp.float32(0.5)}


def record(status: int = 0) -> lnpjax.Record:
    numbers = {field.name: jnp.float32(0.25) for field in dataclasses.fields(lnpjax.LNP)}
    group = GroupLNP(*[jnp.float32(0.5)] * 6)
    lnp = lnpjax.LNP(**(numbers | {"groups": {"head": group}, "status": jnp.int32(status)}))
    return lnpjax.Record(jnp.bool_(True), jnp.int32(7), jnp.int32(3), lnp)


def test_every_scalar_of_a_measurement_has_its_place_in_the_table_of_rows() -> None:
    scalars = {field.name for field in dataclasses.fields(lnpjax.LNP)} - {"groups"}
    assert {field.name for field in MEASURED} == scalars
    assert {part.name for part in GROUP_PARTS} <= {f.name for f in dataclasses.fields(GroupLNP)}
    assert set(Speed._fields) < set(SESSION.names())


def test_a_field_that_the_table_does_not_have_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"expected fields of rows 'train'.* got \['los'\]"):
        recorder(run).write("train", 0, los=1.0, learning_rate=0.1)
    with pytest.raises(KeyError, match="learning_rate"):
        recorder(run).write("train", 0, loss=1.0)
    assert run.rows() == []


def test_rows_follow_a_few_steps_behind_and_none_is_lost(run: Run) -> None:
    behind = recorder(run)
    for step in range(STEPS_AHEAD + 2):
        behind.push(step, metrics(step))
    assert [row["step"] for row in run.rows()] == [0, 1]
    behind.flush()
    rows = run.rows()
    assert [row["step"] for row in rows] == list(range(STEPS_AHEAD + 2))
    assert rows[1] == {
        "kind": "train", "step": 1, "tokens": 20, "flops": 240.0, "loss": 1.0, "learning_rate": 0.5,
    }  # fmt: skip


def test_a_measurement_follows_its_step_in_rows_and_writers(run: Run) -> None:
    paper, ear = Paper(), Ear()
    both = recorder(run, writers=[paper], reporter=ear)
    both.push(7, metrics(2.0), record())
    both.flush()
    train, lnp = run.rows()
    assert (train["kind"], lnp["kind"], lnp["window"]) == ("train", "lnp", 3)
    assert lnp["groups"] == {"head": {"delta_loss": 0.5, "chi_net": 0.5, "chi_pos": 0.5}}
    assert [step for step, _ in paper.written] == [7, 7]
    assert paper.written[1][1]["lnp/head/chi_net"] == 0.5
    assert ear.updates == [(8, 2.0, 0.25)]


def test_functions_get_rows_and_one_that_fails_gets_no_more(run: Run) -> None:
    rows: list[tuple[int, dict[str, float]]] = []

    def broken(step: int, scalars: dict[str, float]) -> None:
        raise RuntimeError("no network")

    ear = Ear()
    both = recorder(run, writers=[broken, lambda *row: rows.append(row)], reporter=ear)
    for step in range(2):
        both.write("validation", step, loss=1.0)
    assert [step for step, _ in rows] == [0, 1]
    assert rows[0][1]["validation/loss"] == 1.0
    assert ear.warnings == ["broken gets no more rows: no network"]


def test_log_every_thins_training_rows_only(run: Run) -> None:
    thin = recorder(run, log_every=5)
    for step in range(12):
        thin.push(step, metrics(1.0), record() if step == 3 else None)
    thin.flush()
    assert [(row["kind"], row["step"]) for row in run.rows()] == [
        ("train", 0), ("lnp", 3), ("train", 5), ("train", 10),
    ]  # fmt: skip


def test_a_loss_that_is_not_finite_ends_the_rows(run: Run) -> None:
    doomed = recorder(run, log_every=100)
    for step, loss in enumerate((1.0, math.inf, 3.0)):
        doomed.push(step, metrics(loss))
    with pytest.raises(NonFiniteLossError, match="the loss of step 1 is inf") as error:
        doomed.flush()
    assert error.value.step == 1
    assert [row["step"] for row in run.rows()] == [0, 1]


def test_an_undefined_measurement_is_kept_and_announced_once(run: Run) -> None:
    ear = Ear()
    warned = recorder(run, reporter=ear)
    for step in range(3):
        warned.push(step, metrics(1.0), record(status=1))
    warned.flush()
    assert [row["status"] for row in run.rows("lnp")] == [1, 1, 1]
    (warning,) = ear.warnings
    assert "step 0: the loss gradient with respect to the outputs is zero" in warning


def test_the_share_of_measuring_is_the_time_beyond_plain_steps(run: Run) -> None:
    now = iter([0.0, 1.0, 2.0, 6.0, 8.0])
    timed = recorder(run, clock=lambda: next(now))
    timed.push(0, metrics(1.0))
    timed.push(1, metrics(1.0))
    timed.push(2, metrics(1.0), record())
    timed.flush()  # laps of 1, 1 and, measured, 4
    speed = timed.speed(3)
    assert speed.measuring_share == pytest.approx(3 / 6)
    assert speed.tokens_per_second == pytest.approx(30 / 8)
    assert speed.plain_tokens_per_second == pytest.approx(10 / 1)
