"""Sweeps that were killed, sweeps of another config, and the claims of an experiment."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import shutil
import subprocess

import numpy as np
import pytest
from rich.console import Console

from lnpjax import experiments
from lnpjax._base.configs import decode
from lnpjax.commands.reproduce import Reproduce
from lnpjax.experiments._harness.claims import Claim, Finding, Observation
from lnpjax.experiments._harness.estimates import Bounds, mean_of
from lnpjax.experiments._harness.reproduction import Reproduction, judge_again, reproduce
from lnpjax.experiments._harness.sweep import (
    Sweep,
    SweepBar,
    SweepLines,
    SweepProgress,
    UnitResult,
    config_to_json,
)
from lnpjax.experiments._harness.tables import claims_markdown, claims_table


@dataclasses.dataclass(frozen=True)
class Grid:
    rate: float = 0.1
    points: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))


@dataclasses.dataclass(frozen=True)
class Config:
    grid: Grid = dataclasses.field(default_factory=Grid)
    sizes: tuple[int, ...] = (1, 2, 3)


class Killed(BaseException):
    """What a signal looks like from inside."""


class Counting(SweepProgress):
    def __init__(self):
        self.computed, self.seen = [], []

    def done(self, name, *, seconds=None):
        self.seen.append(name)
        if seconds is not None:
            self.computed.append(name)


def _squares(config: Config, sweep: Sweep, data, *, killed_at: int | None = None) -> None:
    def compute(size: int) -> UnitResult:
        if size == killed_at:
            raise Killed
        rows = [{"kind": "square", "size": size, "value": float(size**2)}]
        return UnitResult(rows, {"range": np.arange(size)})

    for size in config.sizes:
        sweep.unit(f"size-{size}", lambda size=size: compute(size))


def _judge(config: Config, sweep: Sweep) -> list[Claim | Observation]:
    values = [row["value"] for row in sweep.rows(kind="square")]
    lengths = [len(sweep.arrays(f"size-{size}")["range"]) for size in config.sizes]
    return [
        Claim(
            source="Fig. 1",
            statement="squares | grow",
            quantity="mean of all",
            findings=[Finding("", mean_of(values), Bounds(-20, 30))],
        ),
        Observation(source="Fig. 1", statement="in length", seen=str(lengths)),
    ]


def _experiment(measure=_squares) -> Reproduction[Config]:
    return Reproduction(
        paper="a paper",
        figures=("1",),
        name="squares",
        title="Squares",
        presets={"smoke": Config(), "cpu": Config(sizes=(1, 2, 3, 4))},
        num_units=lambda config, data: len(config.sizes),
        measure=measure,
        draw=lambda config, sweep, folder: (folder / "squares.png").write_bytes(b""),
        judge=_judge,
    )


def test_a_killed_sweep_computes_only_what_is_missing(tmp_path):
    def killed(config, sweep, data):
        _squares(config, sweep, data, killed_at=3)

    with pytest.raises(Killed):
        reproduce(_experiment(killed), "smoke", tmp_path)
    assert not (tmp_path / "claims.md").exists()
    # A kill between the files of a unit leaves it undone.
    (tmp_path / "units" / "size-2.sha256").unlink()

    progress = Counting()
    found = reproduce(_experiment(), "smoke", tmp_path, progress=progress)
    assert progress.computed == ["size-2", "size-3"]
    assert progress.seen == ["size-1", "size-2", "size-3"]
    assert found.judged[0].verdict == "set-up short of the paper"  # as all that smoke says
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    assert [(row["unit"], row["value"]) for row in rows] == [
        ("size-1", 1),
        ("size-2", 4),
        ("size-3", 9),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "units", "results.jsonl", "arrays.npz"),
        *("figures", "claims.md", "claims.json", ".lock", "results.sha256"),
    }


def _flipped(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("size-2.jsonl", _flipped),
        ("size-2.jsonl", lambda file: file.write_text("")),
        ("size-2.jsonl", lambda file: file.unlink()),
        ("size-2.npz", _flipped),
        ("size-2.npz", lambda file: file.unlink()),
        ("size-2.npz", lambda file: shutil.copy(file.with_name("size-3.npz"), file)),
        ("size-2.sha256", _flipped),
    ],
)
def test_a_damaged_unit_is_computed_again(name, damage, tmp_path):
    first = reproduce(_experiment(), "smoke", tmp_path)
    results = (tmp_path / "results.jsonl").read_bytes()
    damage(tmp_path / "units" / name)
    progress = Counting()
    with pytest.warns(UserWarning, match=r"size-2\.jsonl: expected the unit as it was written"):
        assert reproduce(_experiment(), "smoke", tmp_path, progress=progress) == first
    assert progress.computed == ["size-2"]
    assert (tmp_path / "results.jsonl").read_bytes() == results


def test_sums_are_those_of_sha256sum(tmp_path):
    _done(tmp_path)
    check = ["sha256sum", "--check", "size-1.sha256"]
    subprocess.run(check, cwd=tmp_path / "units", check=True, capture_output=True)


def test_damaged_results_are_not_judged(tmp_path):
    reproduce(_experiment(), "cpu", tmp_path)
    _flipped(tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match=r"results\.jsonl: expected the rows as they were written"):
        judge_again(_experiment(), "cpu", tmp_path)


def test_one_process_at_a_time_writes_to_a_folder(tmp_path):
    def intruded(config, sweep, data):
        with pytest.raises(RuntimeError, match=r"nothing else writes to, got .*, which process"):
            reproduce(_experiment(), "smoke", tmp_path)
        _squares(config, sweep, data)

    first = reproduce(_experiment(intruded), "smoke", tmp_path)
    assert judge_again(_experiment(), "smoke", tmp_path) == first


@pytest.mark.parametrize("linked", ["results.jsonl", "units", "units/size-1.jsonl", ".lock"])
def test_links_to_elsewhere_are_not_written_through(linked, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    folder = tmp_path / "sweep"
    (folder / linked).parent.mkdir(parents=True)
    (folder / linked).symlink_to(elsewhere)
    with pytest.raises(OSError, match=f"{linked}: expected a file or folder of its own"):
        reproduce(_experiment(), "smoke", folder)
    assert elsewhere.read_text() == "precious"


def test_rows_are_judged_again_without_the_computation(tmp_path, monkeypatch, capsys):
    first = reproduce(_experiment(), "cpu", tmp_path)
    kept = {"config.json", "results.jsonl", "arrays.npz", "claims.json"}
    for path in list(tmp_path.iterdir()):
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    written = (tmp_path / "claims.json").read_text()

    def refused(*_):
        raise AssertionError("computed")

    again = judge_again(_experiment(refused), "cpu", tmp_path)
    assert again == first
    assert again.judged[0].verdict == "holds"
    assert (tmp_path / "claims.json").read_text() == written
    assert (tmp_path / "figures" / "squares.png").exists()
    rows = tmp_path / "results.jsonl"
    rows.with_suffix(".jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    rows.unlink()
    assert judge_again(_experiment(refused), "cpu", tmp_path) == first
    # The command finds out itself what the folder holds.
    monkeypatch.setattr(experiments, "FOLDERS", {"squares": ""})
    monkeypatch.setattr(experiments, "experiment", lambda name: _experiment(refused))
    assert Reproduce(judge=str(tmp_path))() == 0
    assert "squares | grow" in capsys.readouterr().out


def test_an_older_or_another_config_is_judged_as_it_is(tmp_path):
    reproduce(_experiment(), "cpu", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"colour": 1}))
    with pytest.raises(
        ValueError, match=r"config\.json: expected the fields of Config, got colour"
    ):
        judge_again(_experiment(), "cpu", tmp_path)


def test_processes_share_the_units_of_a_sweep(tmp_path):
    """Parts that match a pattern are computed in folders of their own, and then put together."""
    parts = {"a": "size-[13]", "b": "size-2"}
    for part, only in parts.items():
        progress = Counting()
        done = reproduce(_experiment(), "smoke", tmp_path / part, only=only, progress=progress)
        assert not done.judged
        assert not (done.folder / "claims.md").exists()
        assert progress.computed == (["size-2"] if part == "b" else ["size-1", "size-3"])
    progress = Counting()
    whole = tmp_path / "whole"
    merge = [tmp_path / part for part in parts]
    done = reproduce(_experiment(), "smoke", whole, merge=merge, progress=progress)
    assert progress.computed == []
    assert [row["value"] for row in map(json.loads, (whole / "results.jsonl").open())] == [1, 4, 9]
    assert len(done.judged) == 2


def test_parts_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^only: expected a pattern that matches one of size-1"):
        reproduce(_experiment(), "smoke", tmp_path / "a", only="size-9")
    with pytest.raises(FileNotFoundError, match=r"^folder: expected a folder with config\.json"):
        reproduce(_experiment(), "smoke", tmp_path / "a", merge=[tmp_path / "none"])
    reproduce(_experiment(), "cpu", tmp_path / "b")
    with pytest.raises(ValueError, match=r"^config: sizes"):
        reproduce(_experiment(), "smoke", tmp_path / "a", merge=[tmp_path / "b"])


def test_summaries_are_the_titles():
    for name, summary in experiments.summaries().items():
        assert experiments.experiment(name).title == summary


def test_another_config_is_refused_by_the_name_of_its_field(tmp_path):
    Sweep(tmp_path, Config())
    Sweep(tmp_path, Config())
    with pytest.raises(ValueError, match=r"config: grid/rate: expected 0\.1, as in .*, got 0\.2"):
        Sweep(tmp_path, Config(grid=Grid(rate=0.2)))


def test_configs_survive_json():
    config = Config(grid=Grid(points=((5, 6),)))
    written = json.loads(json.dumps(config_to_json(config)))
    assert decode(Config, written, source="values") == config
    with pytest.raises(ValueError, match="values: expected the fields of Grid, got colour"):
        decode(Grid, {"colour": 1}, source="values")


def test_results_are_what_was_stored(tmp_path):
    sweep = Sweep(tmp_path, Config())
    first = sweep.unit("a", lambda: UnitResult([{"x": math.nan, "n": np.float32(2)}]))
    assert math.isnan(first.rows[0]["x"])
    assert first.rows[0]["n"] == 2
    assert sweep.rows(n=2)[0]["unit"] == "a"
    assert sweep.rows(n=3) == []
    with pytest.raises(ValueError, match="name: expected a new name per unit, got 'a'"):
        sweep.unit("a", lambda: UnitResult([]))
    with pytest.raises(ValueError, match="name: expected letters"):
        sweep.unit("../a", lambda: UnitResult([]))


def test_unknown_presets_and_experiments(tmp_path):
    with pytest.raises(ValueError, match="preset: expected one of smoke, cpu, got 'large'"):
        reproduce(_experiment(), "large", tmp_path / "none")
    with pytest.raises(ValueError, match=r"EXPERIMENT: expected one of .*, got 'nothing'"):
        Reproduce(experiment="nothing")()
    assert list(tmp_path.iterdir()) == []


def test_what_a_person_sees(capsys):
    stream = io.StringIO()
    bar = SweepBar(Console(file=stream, force_terminal=True, width=90))
    for progress in (SweepLines(), bar):
        progress.start(2)
        progress.done("first")
        progress.begin("second")
        progress.done("second", seconds=1.0)
        progress.stop()
    assert capsys.readouterr().err == "[2/2] second: 1.0 s\n"
    assert "2/2" in stream.getvalue()
    assert "second" in stream.getvalue()


def test_claims_as_a_table_and_as_markdown(tmp_path):
    judged = _judge(Config(), _done(tmp_path))
    assert claims_table("Squares", judged).row_count == 2
    markdown = claims_markdown("Squares", judged)
    here = "5 (-5 to 15) | -20 to 30 | **holds** |"
    assert f"| Fig. 1 | squares \\| grow | mean of all | {here}" in markdown
    assert "| Fig. 1 | in length | [1, 2, 3] |" in markdown


def _done(folder) -> Sweep:
    sweep = Sweep(folder, Config())
    _squares(Config(), sweep, None)
    return sweep
