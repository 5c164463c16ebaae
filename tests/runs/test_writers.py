from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lnpjax.runs import TensorBoardWriter, WandbWriter, Writer
from lnpjax.runs._writers import flatten_row

ROW = {
    "kind": "lnp",
    "step": 7,
    "chi_pos": 0.25,
    "status": 0,
    "nu": math.nan,
    "note": "text",
    "missing": None,
    "groups": {"layers/0": {"chi_net": 2.0}, "head": {"chi_net": 3}},
}


def read_events(folder: Path) -> list[Any]:
    """What the event files hold: records of a length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            events.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return events


def test_flatten_row_names_numbers_by_kind_and_group() -> None:
    flat = flatten_row(ROW)
    assert math.isnan(flat.pop("lnp/nu"))
    assert flat == {
        "lnp/chi_pos": 0.25,
        "lnp/status": 0.0,
        "lnp/layers/0/chi_net": 2.0,
        "lnp/head/chi_net": 3.0,
    }
    with pytest.raises(ValueError, match='row: expected a "kind"'):
        flatten_row({"step": 1})


def test_tensorboard_events_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    writer: Writer = TensorBoardWriter(tmp_path)
    writer.write(0, {"train/loss": 2.5, "train/learning_rate": 0.125})
    writer.write(7, {"lnp/chi_pos": -0.25})
    writer.close()
    written = [
        (event.step, value.tag, value.simple_value)
        for event in read_events(tmp_path)
        for value in event.summary.value
    ]
    assert written == [
        (0, "train/loss", 2.5),
        (0, "train/learning_rate", 0.125),
        (7, "lnp/chi_pos", -0.25),
    ]


def test_a_resumed_tensorboard_hides_what_will_be_written_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    from tensorboardX.proto.event_pb2 import SessionLog

    TensorBoardWriter(tmp_path, resumed_at=40).close()
    events = [event for event in read_events(tmp_path) if event.HasField("session_log")]
    assert [(event.step, event.session_log.status) for event in events] == [(40, SessionLog.START)]


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    seen = SimpleNamespace(options={}, logged=[], finished=0)

    class FakeRun:
        def log(self, data: dict[str, float], step: int) -> None:
            seen.logged.append((step, data))

        def finish(self) -> None:
            seen.finished += 1

    def init(**options: Any) -> FakeRun:
        seen.options = options
        return FakeRun()

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


def test_wandb_receives_config_scalars_and_the_end(fake_wandb: SimpleNamespace) -> None:
    writer: Writer = WandbWriter("lnp", name="small", config={"a": 1}, run_id="x1", mode="offline")
    writer.write(3, {"train/loss": 1.5})
    writer.close()
    assert fake_wandb.options["project"] == "lnp"
    assert fake_wandb.options["config"] == {"a": 1}
    assert (fake_wandb.options["id"], fake_wandb.options["resume"]) == ("x1", "allow")
    assert fake_wandb.options["mode"] == "offline"
    assert fake_wandb.logged == [(3, {"train/loss": 1.5})]
    assert fake_wandb.finished == 1


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"WandbWriter needs.*lnpjax\[wandb\]"):
        WandbWriter("p")
    with pytest.raises(ImportError, match=r"TensorBoardWriter needs.*lnpjax\[tensorboard\]"):
        TensorBoardWriter(tmp_path)


def test_bad_arguments_are_named(fake_wandb: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"mode: expected one of .* got 'of'"):
        WandbWriter("p", mode="of")
    with pytest.raises(ValueError, match="step: expected an integer >= 0, got -1"):
        WandbWriter("p").write(-1, {"a": 1.0})
    assert fake_wandb.logged == []
