from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pictures import is_whole_png
from tiny_runs import OPTIONS, arguments, rows_but_distributions
from waiting import wait_until

import lnpjax
from lnpjax import cli
from lnpjax._base.reporting import Reporter
from lnpjax.commands import compare, plot, reproduce, spectrum, train, validate
from lnpjax.commands._exit import Exit
from lnpjax.pretraining import Experiment, PretrainConfig, open_run
from lnpjax.runs import Run

STEPS = OPTIONS["--steps"]


@pytest.fixture
def text(tiny_run: Path) -> Path:
    return tiny_run.parent / "counting.txt"


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def test_version_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    printed = capsys.readouterr().out
    for part in (f"lnpjax {lnpjax.__version__}", f"jax {jax.__version__}", "flax", "cpu device"):
        assert part in printed


@pytest.mark.parametrize(
    "command",
    [
        *(train.Train, plot.Plot, compare.Compare),
        *(spectrum.Spectrum, validate.Validate, reproduce.Reproduce),
    ],
)
def test_help_mentions_every_option(command: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command.__name__.lower(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(command):
        section = field.default_factory
        nested = section is not dataclasses.MISSING
        for option in dataclasses.fields(section) if nested else (field,):
            positional = option.default is dataclasses.MISSING or option.name == "experiment"
            dashed = f"--{option.name.replace('_', '-')} "
            assert (option.name.upper() if positional else dashed) in shown


def test_train_leaves_a_run_a_table_and_a_figure(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "counting-custom-1").mkdir(parents=True)
    (tmp_path / "runs" / "counting-custom-1" / "mine.txt").touch()
    assert cli.main([*arguments(text, distribution=0), "--tensorboard"]) == 0
    out, err = capsys.readouterr()
    run = Path("runs/counting-custom-2")
    assert f"run    {run}\nfigure {run}/figures/components.png\n" in out
    for part in ("training loss", "validation loss", "chi_loss", "chi_net", "chi_pos"):
        assert part in out
    assert f"measured {len(Run.open(run).rows('lnp'))} of {STEPS} steps" in out
    assert "tokens/s" in out
    assert f"step {STEPS}/{STEPS}" in err
    assert is_whole_png(run / "figures" / "components.png")
    assert list((run / "tensorboard").iterdir())


def test_plot_draws_one_run_or_several(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    shutil.rmtree(copy / "figures")
    assert cli.main(["plot", "copy"]) == 0
    assert capsys.readouterr().out == "copy/figures/components.png\n"
    assert is_whole_png(copy / "figures" / "components.png")
    assert cli.main(["plot", "copy", str(tiny_run), "--out", "both.pdf"]) == 0
    assert (tmp_path / "both.pdf").read_bytes().startswith(b"%PDF")


def test_a_stop_signal_saves_the_run_and_says_how_to_go_on(
    tiny_run: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Interrupts(Reporter):
        def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
            if step == 3:
                signal.raise_signal(signal.SIGINT)

        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(train, "terminal_reporter", Interrupts)
        assert cli.main(arguments(text, out="my run", distribution=0)) == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    assert notes[-1].endswith(
        f"of {STEPS} steps, saved; go on with: lnpjax train --resume 'my run'"
    )
    assert 3 <= max(Run.open("my run").checkpoint_steps()) < STEPS
    assert cli.main(["train", "--resume", "my run"]) == 0
    rows = Path("my run/metrics.jsonl").read_text().splitlines()
    assert rows == rows_but_distributions(tiny_run)
    assert "measured" in capsys.readouterr().out


def test_a_second_stop_signal_ends_the_process_even_within_compiled_code() -> None:
    before = signal.getsignal(signal.SIGINT)
    with train.catch_stop_signal() as caught:
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        for number in (signal.SIGINT, signal.SIGTERM):
            assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_terminal_stops_a_run_unless_that_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with train.catch_stop_signal() as caught:
            signal.raise_signal(signal.SIGHUP)
        assert caught == []
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with train.catch_stop_signal() as caught:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        assert caught == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lnpjax", *arguments]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


def kill_when(process: subprocess.Popen[bytes], metrics: Path, rows: int, log: Path) -> None:
    def has_rows() -> bool:
        assert process.poll() is None, f"ended before it had {rows} rows: {log.read_text()}"
        return metrics.exists() and metrics.read_bytes().count(b"\n") >= rows

    wait_until(has_rows)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def final_state(path: Path) -> list[np.ndarray]:
    run = Run.open(path)
    config = PretrainConfig.from_json(run.config, source="test")
    state = Experiment(config, config.data.load()).abstract_state()
    checkpoint = run.read_checkpoint(state)
    assert checkpoint is not None
    assert checkpoint.step == 40
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.state)]


def test_a_run_killed_twice_ends_as_one_that_was_not(text: Path, tmp_path: Path) -> None:
    steps = {"steps": 40, "checkpoint_every": 7, "validate_every": 20, "window_width": 3}
    log, killed, whole = (tmp_path / name for name in ("log", "killed", "whole"))
    metrics = killed / "metrics.jsonl"
    kill_when(start(arguments(text, out=killed, **steps), log), metrics, 4, log)
    kill_when(start(["train", "--resume", str(killed)], log), metrics, 50, log)
    for command in (["train", "--resume", str(killed)], arguments(text, out=whole, **steps)):
        assert start(command, log).wait() == 0, log.read_text()
    assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert metrics.read_bytes().count(b"\n") > 60
    for left, right in zip(final_state(killed), final_state(whole), strict=True):
        np.testing.assert_array_equal(left, right)


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error with which a command fails."""
    capsys.readouterr()
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert line.startswith("lnpjax: ")
    assert "Traceback" not in err
    assert out == ""
    return line.removeprefix("lnpjax: ")


CLOSED_VOCABULARY = """{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
    "decoder": null, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}}"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere.txt"}, "data: expected one of stdlib, digits, simplestories, hf:owner"),
        ({"tokenizer": "broken.json"}, "broken.json"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json"),
        ({"tokenizer": "closed.json"}, "closed.json, which has no token for unknown words such as"),
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"steps": 1}, "window_width: expected at most the 1 steps of the run"),
        ({"preset": "7B"}, "preset: expected one of 115K, 102.6K"),
        ({"batch_size": 5000}, "batch_size: expected at most the"),
        ({"num_heads": 3}, "num_heads: expected a divisor of hidden_size=8"),
        (
            {"num_validation": 5000},
            "data: expected more than num_validation = 5000 + ",
        ),
        ({"microbatch_size": 0}, "microbatch_size: expected an integer >= 1, got 0"),
        ({"wandb": "project"}, "--wandb needs the package 'wandb': pip install 'lnpjax[wandb]'"),
        ({"out": "taken"}, "path: expected a new or empty folder"),
        ({"resume": "nowhere"}, "--resume: expected no option with it except --force, --tens"),
        ({"mesh": "rows=2"}, "mesh: expected sizes of the axes data and model, such as data=4,mo"),
        ({"mesh": "data=8"}, "batch_size: expected a multiple of 8, over as many devices the mesh"),
        ({"mesh": "data=4,model=64"}, "mesh: expected 256 devices for data=4,model=64 (set XLA_FL"),
        ({"processes": 2}, "processes: expected coordinator, processes and process together, got"),
    ],
)
def test_bad_options_get_one_line(
    text: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    Path("broken.json").write_text("{")
    Path("closed.json").write_text(CLOSED_VOCABULARY)
    Path("taken").mkdir()
    Path("taken/mine.txt").touch()
    here = sorted(tmp_path.rglob("*"))
    assert message in refused(arguments(**({"data": text} | changes)), capsys)
    assert sorted(tmp_path.rglob("*")) == here


def test_what_resume_and_plot_refuse(
    tiny_run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere, which is not a folder" in refused(["train", "--resume", "nowhere"], capsys)
    assert "nowhere, which is not a folder" in refused(["plot", "nowhere"], capsys)
    assert "RUN: expected at least one run folder" in refused(["plot"], capsys)
    assert "RUN: expected at least two run folders" in refused(["compare", "nowhere"], capsys)
    assert "EXPERIMENT: expected one of" in refused(["reproduce", "nothing"], capsys)

    run = shutil.copytree(tiny_run, tmp_path / "run")
    resume = ["train", "--resume", str(run)]
    file, whole = run / "config.json", (run / "config.json").read_text()
    config = json.loads(whole)

    file.write_text(whole[:100])
    assert "config.json: expected a JSON object" in refused(resume, capsys)
    file.write_text(json.dumps(config | {"model": {}}))
    assert "config.json: model: expected an object with dtype," in refused(resume, capsys)
    file.write_text(json.dumps(config | {"model": config["model"] | {"num_heads": 3}}))
    assert "config.json: model: num_heads: expected a divisor" in refused(resume, capsys)
    file.write_text(json.dumps(config | {"model": config["model"] | {"hidden_size": 4}}))
    assert "abstract_state: expected the state of checkpoint 12" in refused(resume, capsys)
    file.write_text(json.dumps(config | {"training": config["training"] | {"seed": 1}}))
    assert "where training/seed is 0, got 1" in refused(resume, capsys)

    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[::-1])
    file.write_text(json.dumps(config | {"data": config["data"] | {"data": str(other)}}))
    assert "data: expected the data that" in refused(resume, capsys)
    file.write_text(whole)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write("no row\n")
    assert "metrics.jsonl, line" in refused(resume, capsys)


def test_a_bug_is_not_dressed_up_as_bad_input(
    monkeypatch: pytest.MonkeyPatch,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train.PretrainConfig, "resolve", lambda *_, **__: int("seven"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(arguments(text)) == Exit.BUG
    err = capsys.readouterr().err
    assert "bug of lnpjax: ValueError: invalid literal" in err
    assert "issues" in err
    assert "Traceback" not in err
    (report,) = tmp_path.glob("lnpjax-*.txt")
    assert str(report) in err
    assert "Traceback" in report.read_text()
    with pytest.raises(ValueError, match="seven"):
        cli.main([*arguments(text), "--debug"])


def test_arguments_that_cannot_be_parsed_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err


def test_train_on_stories_with_their_tokenizer(real_data: Path) -> None:
    stories = real_data / "tinystories" / "tinystories_train_first_2MiB.txt"
    tokenizer = real_data / "tokenizers" / "simplestories" / "simplestories-4096.json"
    options = {"steps": 12, "batch_size": 2, "context_length": 32, "max_bytes": 200_000}
    command = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    paths = ["--data", str(stories), "--tokenizer", str(tokenizer), "--out", "stories"]
    assert cli.main(["train", *paths, *command, "--window-width", "2"]) == 0
    run, config, dataset = open_run("stories")
    assert config.model.vocab_size == dataset.vocab_size == 4096
    losses = run.columns("train")["loss"]
    assert losses[0] == pytest.approx(np.log(4096), abs=0.1)
    assert losses[-1] < losses[0]
    assert (run.columns("lnp")["status"] == 0).all()
