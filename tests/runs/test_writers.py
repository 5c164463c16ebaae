from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lnpjax.runs import Run, TensorBoardWriter, TrackioWriter, WandbWriter, Writer
from lnpjax.runs._writers import as_writer, flatten_row

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


def test_what_wandb_is_told_elsewhere_counts(fake_wandb: SimpleNamespace) -> None:
    WandbWriter("lnp")  # WANDB_MODE and W&B's settings files
    assert fake_wandb.options["mode"] is None


def test_writers_may_be_there_before_the_run(fake_wandb: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    folder = tmp_path / "run"
    writers: list[Writer] = [
        TensorBoardWriter(folder / "tensorboard"),
        WandbWriter("lnp", folder=folder),
    ]
    assert fake_wandb.options == {}
    with Run.create(folder, {"num_parameters": 2}):
        for writer in writers:
            writer.write(0, {"train/loss": 2.5})
            writer.close()
        assert fake_wandb.options["dir"] == str(folder)
        assert read_events(folder / "tensorboard")
        WandbWriter("again", folder=folder)  # at once, so that what is wrong is told at once
        assert fake_wandb.options["project"] == "again"


def test_a_writer_that_got_nothing_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    TensorBoardWriter(tmp_path / "none").close()
    assert not (tmp_path / "none").exists()


def test_tensorboard_gets_what_people_plot_or_everything(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    row = dict.fromkeys(("chi_loss", "chi_net", "chi_pos", "chi_pos_sem", "sem_df", "nu"), 0.5)
    groups = {"blocks/0": {"chi_pos": 0.5, "chi_net": 0.5}}
    scalars = flatten_row({"kind": "lnp", **row, "groups": groups}) | {"mine": 1.0}
    tags = {}
    for everything in (False, True):
        folder = tmp_path / str(everything)
        writer = TensorBoardWriter(folder, everything=everything)
        writer.write(3, scalars)
        writer.close()
        tags[everything] = {v.tag for event in read_events(folder) for v in event.summary.value}
    plotted = {f"lnp/{name}" for name in ("chi_loss", "chi_net", "chi_pos", "chi_pos_sem")}
    assert tags[False] == plotted | {"lnp/blocks/0/chi_pos", "mine"}
    assert tags[True] == set(scalars)


def test_functions_are_writers() -> None:
    calls: list[Any] = []
    writer = as_writer(lambda step, scalars: calls.append((step, scalars)))
    writer.write(3, {"train/loss": 1.5})
    writer.close()
    assert calls == [(3, {"train/loss": 1.5})]
    assert as_writer(writer) is writer
    with pytest.raises(TypeError, match=r"writers: expected writers, or functions .*, got str"):
        as_writer("wandb")  # type: ignore[arg-type]


def test_trackio_is_called_as_wandb_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run = SimpleNamespace(
        log=lambda data, step: seen.append((step, data)), finish=lambda: seen.append("end")
    )
    module = ModuleType("trackio")
    module.init = lambda project, **options: seen.append((project, options)) or run  # type: ignore
    monkeypatch.setitem(sys.modules, "trackio", module)
    writer: Writer = TrackioWriter("lnp", name="small", config={"a": 1})
    writer.write(3, {"train/loss": 1.5})
    writer.close()
    options = {"name": "small", "config": {"a": 1}, "resume": "allow"}
    assert seen == [("lnp", options), (3, {"train/loss": 1.5}), "end"]
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ImportError, match=r"TrackioWriter needs.*lnpjax\[trackio\]"):
        TrackioWriter("lnp")


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
