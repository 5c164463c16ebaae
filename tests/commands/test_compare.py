"""`lnpjax compare`: what it prints of runs that are known in closed form, and what it refuses."""

from __future__ import annotations

import pytest
import tyro
from lens_runs import config, make_run
from pictures import is_whole_png

from lnpjax.commands.compare import Compare
from lnpjax.runs import Run


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def compare(*arguments):
    positional = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes)
    return tyro.cli(Compare, args=arguments, config=positional)()


def row(out, name):
    return next(line for line in out.splitlines() if line.split()[:1] == [name]).split()


def test_two_families_of_three(tmp_path, capsys):
    names = []
    for family, layers, plain, sweep in (
        ("plain", 3, 2e4, ((4, 20_000, 1.2), (8, 10_000, 1.0), (16, 30_000, 1.4))),
        ("deep", 4, 2.2e4, ((4, 11_000, 0.95), (8, 5000, 0.7), (16, 13_500, 1.1))),
    ):
        for batch, tokens, alpha in sweep:
            names.append(f"{family}{batch}")
            make_run(tmp_path / names[-1], tokens_to_target=tokens, end=40_000, alpha=alpha,
                     speed=1e4, plain=plain, options=config(batch, num_layers=layers))  # fmt: skip
    assert compare(*names, "--target", "3", "--out", "figures/all.png") == 0
    out = capsys.readouterr().out
    assert "target: a validation loss of 3 (given)" in out
    assert "families differ in model/num_layers: A 3, B 4" in out
    assert row(out, "plain4")[1:6] == ["A", "4", "20K", "2.00", "20K"]
    assert row(out, "deep8")[1:5] == ["B", "8", "5K", "1.00"]
    assert row(out[out.index("Spectra") :], "deep8")[2:4] == ["0.70", "0.70"]
    change = next(line for line in out.splitlines() if "plain8 → B deep8" in line)
    assert "+100.0 %" in change
    assert "+10.0 %" in change
    assert change.split()[-1] == "activation-led"
    assert "family A: 1.00 (n = 3, p = 0.33)" in out
    assert "mean of 2 families: 1.00 (n = 6, p = 0.056)" in out
    # Ranks 3, 1.5, 5.5, 4, 1.5, 5.5 of the exponents and 3, 1.5, 6, 4, 1.5, 5 of the efficiencies.
    assert "pooled, scaled within families: 0.99 (n = 6" in out
    assert out.splitlines()[-1] == "figure figures/all.png"
    assert is_whole_png(tmp_path / "figures" / "all.png")


def test_runs_without_spectra_or_speeds(tmp_path, capsys):
    make_run(tmp_path / "old", tokens_to_target=10_000, end=20_000, spectra=0, speed=None,
             options=config(num_layers=3))  # fmt: skip
    make_run(tmp_path / "new", tokens_to_target=15_000, end=20_000, speed=1e4,
             options=config(num_layers=4))  # fmt: skip
    assert compare("old", "new", "--crossing", "checkpoint") == 0
    out = capsys.readouterr().out
    assert "(the lowest that all runs reach)" in out
    assert "no spectra in old: record them with lnpjax train --spectra N" in out
    assert "no record of tokens per second in old" in out
    assert row(out, "old")[5:] == ["-"]
    assert row(out[out.index("Spectra") :], "old")[1:] == ["-"] * 6
    assert "undecided: tokens per second missing" in out
    assert is_whole_png(tmp_path / "comparison.png")


def test_matched_tokens_and_fractions_and_what_is_far_or_never_reached(tmp_path, capsys):
    for name, end in (("short", 8_000), ("long", 80_000)):
        make_run(tmp_path / name, tokens_to_target=10_000, end=end, spectra=2,
                 options=config(fingerprint=name))  # fmt: skip
    assert compare("short", "long", "--at", "tokens", "--target", "3") == 0
    out = capsys.readouterr().out
    assert "Spectra at 8K tokens" in out
    assert "spectra measured far, in tokens, from where they are compared: long (x10.00)" in out
    assert "the target is never reached by short" in out
    assert "careful: runs differ in data/fingerprint" in out
    assert row(out, "short")[3] == "-"
    assert compare("short", "long", "--at", "fraction", "--fraction", "1") == 0
    out = capsys.readouterr().out
    assert "100% of the way through each run" in out
    assert "spectra measured far" not in out
    assert row(out[out.index("Spectra") :], "long")[5] == "80K"


def test_refusals(tmp_path):
    make_run(tmp_path / "run", tokens_to_target=10_000, end=20_000, spectra=0)
    (tmp_path / "file").write_text("no run")
    Run.create(tmp_path / "empty", {}).close()
    with pytest.raises(SystemExit):
        compare("run", "run", "--at", "step")
    for arguments, error, message in (
        (("run",), ValueError, "RUN: expected at least two run folders, got 1"),
        (("run", "file"), FileNotFoundError, "file, which is not a folder"),
        (("run", "empty"), ValueError, "expected a run with training or validation rows"),
        (("run", "run", "--fraction", "2"), ValueError, r"fraction: expected a number in \(0, 1\]"),
        (("run", "run", "--target", "nan"), ValueError, "target: expected a finite number > 0"),
    ):
        with pytest.raises(error, match=message):
            compare(*arguments)
    assert not (tmp_path / "comparison.png").exists()
