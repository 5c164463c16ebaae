"""Command lines, files and runs that are wrong end in one line that says what would do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lnpjax import cli
from lnpjax.commands._exit import Exit, explain

HUGE = 10**30
TRAIN = ["train", "--data", "counting.txt", "--context-length", "8", "--num-validation", "6"]


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("counting.txt").write_text(" ".join(str(number) for number in range(500)))


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error with which a command is refused."""
    capsys.readouterr()
    assert cli.main(arguments) == Exit.REFUSED, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("E")]
    return line.removeprefix("lnpjax: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--seed", str(HUGE)], f"seed: expected an integer <= {2**63 - 1}, got {HUGE}"),
        ([*TRAIN, "--steps", str(10**18)], f"steps: expected an integer <= {2**31 - 1}, got 1"),
        ([*TRAIN, "--warmup-steps", str(HUGE)], "warmup_steps: expected an integer <= "),
        ([*TRAIN, "--windows-per-decade", str(10**9)], "windows_per_decade: expected an integer"),
        ([*TRAIN, "--hidden-size", str(10**12)], "model: expected at most "),
        ([*TRAIN, "--num-layers", str(10**9)], "num_layers: expected an integer <= "),
        ([*TRAIN, "--force"], "--force: expected --resume RUN with it"),
        ([*TRAIN, "--data", "nowhere"], "data: expected one of stdlib"),
        ([*TRAIN, "--tokenizer", "many.json"], "tokenizer: expected ids below 10000000, got many"),
        (["plot", "RUN", "RUN", "--out", "x.foo"], "--out: expected a file that ends in one of"),
        (["plot", "RUN", "RUN", "--out", "."], "--out: expected a file, got the folder ."),
        (["plot", "RUN", "--out", "x.png"], "--out: expected several run folders with it, got one"),
        (["compare", "RUN", "RUN", "--out", "x.foo"], "--out: expected a file that ends in one of"),
        (["compare", "RUN", "RUN", "--tokens", "5"], "--tokens: expected --at tokens with it"),
        (["spectrum", "RUN", "--seed", str(HUGE)], "--seed: expected 0 to"),
        (["spectrum", "RUN", "--tokenizer", "x"], "--tokenizer: expected --data with it, got x"),
        (["validate", "--run", "RUN", "--steps", "3"], "--steps: expected --model alone with it"),
        (["validate", "--num-vocabulary", "3"], "--num-vocabulary: expected a language model"),
        (["validate", "--num-samples", "1000000"], "num_samples: expected at most"),
    ],
)
def test_a_wrong_option_is_refused_at_once(
    arguments: list[str], message: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = {"a": 0, "[UNK]": 10**9}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    text = {"version": "1.0", **parts, "added_tokens": [], "pre_tokenizer": None, "model": model}
    Path("many.json").write_text(json.dumps(text))
    arguments = [str(tiny_run) if part == "RUN" else part for part in arguments]
    assert message in refusal(arguments, capsys)


def change_rows(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        file = run / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{json.dumps(change(row))}\n" for row in rows))

    return apply


def without(name: str) -> Callable[[Path], None]:
    return change_rows(lambda row: {key: row[key] for key in row if key != name})


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(text) and None


def change_config(**changes: Any) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("step"), "metrics.jsonl, line 2: expected a number as 'step' of this train row"),
        (without("loss"), "metrics.jsonl, line 2: expected a number as 'loss' of this train row"),
        (without("flops"), "expected a number as 'flops'"),
        (without("window"), "expected a number as 'window' of this lnp row"),
        (change_rows(lambda row: row | {"step": "a"}), "as 'step' of this train row, got 'a'"),
        (change_rows(lambda row: row | {"loss": {"a": 1}}), "as 'loss' of this train row, got"),
        (change_rows(lambda row: row | {"step": HUGE * HUGE}), "expected a number as 'step'"),
        (  # a run may leave them open, but not one of its rows
            change_rows(lambda row: row | ({} if row["step"] else {"flops": None})),
            "expected a number as 'flops'",
        ),
        (write("metrics.jsonl", "[" * 100_000 + "\n"), "metrics.jsonl, line 1: expected a row"),
        (write("config.json", "[" * 100_000), "config.json: expected a JSON object"),
        (change_config(training=[]), "config.json: expected an object as 'training', got []"),
        (change_config(num_parameters="x"), "config.json: num_parameters: expected an integer"),
        (change_config(checkpoints_kept="x"), "config.json: checkpoints_kept: expected an integer"),
    ],
)
def test_a_damaged_run_is_refused_by_file_and_line(
    damage: Callable[[Path], None],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    damage(run)
    assert message in refusal(["plot", "run"], capsys)
    assert message in refusal(["train", "--resume", "run"], capsys)


def test_a_run_without_a_finite_number_is_drawn(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    names = ("loss", "chi_loss", "chi_net", "chi_pos", "delta_loss")
    change_rows(lambda row: row | {name: None for name in names if name in row})(run)
    assert cli.main(["plot", "run"]) == Exit.DONE


def test_rows_that_changed_on_the_disk_are_drawn_with_a_warning(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    rows = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(rows.replace(b'"step": 3', b'"step": 2', 1))
    assert cli.main(["plot", "run"]) == Exit.DONE
    warning = capsys.readouterr().err
    assert "metrics.jsonl: expected the rows that checkpoint 12 accounts for" in warning
    assert "shown as they are" in warning


def test_plot_prints_where_it_wrote(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", str(tiny_run), str(tiny_run), "--out", "both"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert out == "both.png\n"
    assert "shown as they are" not in err
    assert Path("both.png").is_file()


def test_a_full_disk_within_a_library_is_named() -> None:
    error = RuntimeError("storage")
    error.__cause__ = OSError(28, "No space left on device")
    assert explain(error) == Exit.REFUSED
    assert explain(RuntimeError("storage")) == Exit.BUG


def test_an_event_loop_that_orbax_closed_is_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[SimpleNamespace] = []
    monkeypatch.setattr(sys, "__unraisablehook__", heard.append)
    noise, other = (
        SimpleNamespace(exc_value=RuntimeError(text))
        for text in ("Event loop is closed", "something else")
    )
    for unraisable in (noise, other):
        cli.ignore_closed_loops(unraisable)
    assert heard == [other]


def test_a_wrong_kind_of_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(RuntimeError("Unable to initialize backend 'cuda'")) == Exit.REFUSED
    assert "JAX_PLATFORMS: expected" in capsys.readouterr().err
