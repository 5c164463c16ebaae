"""`lnpjax spectrum`: shells and distributions of a run, and of a model from a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import is_whole_png
from tiny_checkpoints import write_folder

from lnpjax import cli


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def test_every_checkpoint_of_a_run(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, "run")
    options = ["--num-batches", "2", "--batch-size", "2", "--num-matvecs", "6"]
    assert cli.main(["spectrum", "run", *options]) == 0
    out = capsys.readouterr().out
    states = ["initialisation", "step 4", "step 8", "step 12"]
    for heading in (*states, "chi_pos", "median p", "peak", "cut-off", "unresolved", "amplitude"):
        assert heading in out
    assert "…" not in out  # nothing is cut
    shells = np.load(tmp_path / "run" / "shells" / "shells.npz")
    centers = shells["initialisation/centers"]
    for state in states:
        np.testing.assert_array_equal(shells[f"{state}/centers"], centers)
        assert shells[f"{state}/energies"].sum() > 0
        assert shells[f"{state}/p"].shape == (2, 6)
        for number in ("peak", "peak_sem", "cutoff", "exponent", "residual", "unresolved"):
            assert shells[f"{state}/{number}"].shape == ()
    rows = [json.loads(line) for line in Path("run/shells/shells.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows if row["kind"] == "frontier"] == states
    of_shells = [row for row in rows if (row["kind"], row["label"]) == ("shell", "step 12")]
    np.testing.assert_array_equal(
        np.float32([row["energies"] for row in of_shells]), shells["step 12/energies"]
    )
    peaks = [float(shells[f"{state}/peak"]) for state in states]
    moved = [float(shells[f"{state}/displacement_peak"]) for state in states[1:]]
    np.testing.assert_allclose(moved, np.diff(np.log(peaks)), rtol=1e-4, atol=1e-6)
    assert "initialisation/displacement_peak" not in shells  # nothing is before it
    assert shells["step 12/displacement_amplitude_sem"].shape == ()
    figures = sorted((tmp_path / "run" / "shells").glob("*.png"))
    assert [path.name for path in figures] == ["profile.png", "profiles.png"]
    assert all(map(is_whole_png, figures))

    shutil.copytree("run", "other")
    capsys.readouterr()
    assert cli.main(["spectrum", "run", "other", *options, "--out", "both"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "step 12" in line]
    assert [row.split(",")[0].strip() for row in rows] == ["run", "other"] * 2  # two tables
    assert [row.split()[3:] for row in rows[::2]] == [row.split()[3:] for row in rows[1::2]]
    both = np.load("both/shells.npz")
    np.testing.assert_array_equal(both["run, step 12/peak"], both["other, step 12/peak"])


def test_a_trained_model_from_a_file(real_data, tmp_path, capsys):
    """The trained stories260K on the kind of text that it was trained on: it predicts it well."""
    folder = real_data / "stories260K"
    text = next((real_data / "tinystories").glob("*.txt"))
    options = ["--num-batches", "2", "--batch-size", "2", "--num-matvecs", "4"]
    options += ["--context-length", "16", "--out", "shells"]
    options += ["--data", str(text), "--tokenizer", str(folder / "tok512.bin")]
    assert cli.main(["spectrum", str(folder / "stories260K.bin"), *options]) == 0
    _, row = (line for line in capsys.readouterr().out.splitlines() if "trained " in line)
    assert not any("displacement" in name for name in np.load("shells/shells.npz"))  # one state
    loss = float(row.split()[1])
    assert 1 < loss < 2.2  # nats per token; chance is log(512) = 6.2
    assert is_whole_png(tmp_path / "shells" / "profile.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "MODEL: expected a run folder or a trained model, got none"),
        (["FILE"], "--data: expected text or images to measure on"),
        (["FILE", "--data", "stdlib", "--context-length", "1000"], "at most the model's 64"),
        (["a", "--ratio", "1"], "ratio: expected a number > 1, got 1.0"),
        (["a", "--num-batches", "0"], "--num-batches: expected an integer >= 1"),
        (["nowhere"], "nowhere"),
    ],
)
def test_bad_options_end_in_one_line(options, message, tmp_path, capsys):
    if options[:1] == ["FILE"]:
        options = [str(tmp_path / "llama"), *options[1:]]
        write_folder(tmp_path / "llama", "llama")
    assert cli.main(["spectrum", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
