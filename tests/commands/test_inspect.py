"""`lnpjax inspect` and `lnpjax report`, as they are called."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from pages import parsed
from tiny_checkpoints import write_folder

from lnpjax import cli
from lnpjax.inspection import PARTS, read_inspection
from lnpjax.models.checkpoints.safetensors import write_safetensors
from lnpjax.status import Status, describe_status

FAST = ["--batch-size", "2", "--num-matvecs", "3", "--num-probes", "2"]


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def write_data():
    """Tokens, and two folders of labelled images, for the tiny models."""
    rng = np.random.default_rng(0)
    rng.integers(0, 7, 900).astype("<u2").tofile("tokens.bin")
    images = rng.integers(0, 256, (12, 6, 6, 2)).astype(np.uint8)
    np.savez("images.npz", x=images, y=np.arange(12) % 5)


@pytest.mark.parametrize(
    ("name", "data"), [("gpt2", "tokens.bin"), ("llama", "tokens.bin"), ("vit", "images.npz")]
)
def test_models_of_all_kinds(name, data, tmp_path, capsys):
    write_data()
    write_folder(tmp_path / name, name)
    assert cli.main(["inspect", name, "--data", data, *FAST]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "report inspect/" in out
    document = read_inspection(tmp_path / "inspect" / name)
    assert [part for part, record in document["parts"].items() if "error" in record] == []
    assert list(document["parts"]) == list(PARTS)
    page = parsed((tmp_path / "inspect" / name / "report.html").read_text())
    assert len(page.images) == 7
    assert f"lnpjax inspect {name} --data {data} --batch-size 2" in page.text


def write_family(folder):
    """Three revisions of one model, and one of another."""
    for scale, name in enumerate(("step10", "step20", "step30"), 1):
        tensors = write_folder(folder / name, "llama")
        scaled = {key: np.float32(scale * tensor) for key, tensor in tensors.items()}
        write_safetensors(folder / name / "model.safetensors", scaled)
    write_folder(folder / "other", "gpt2")


def test_revisions_are_inspected_one_after_the_other(tmp_path, capsys):
    write_data()
    write_family(tmp_path / "family")
    options = ["--data", "tokens.bin", "--parts", "loss", *FAST]
    assert cli.main(["inspect", "family", "--revisions", "step10,step30", *options]) == 0
    assert cli.main(["inspect", "family/step30", *options, "--out", "alone"]) == 0
    capsys.readouterr()
    found = [read_inspection(tmp_path / "inspect" / name)["parts"] for name in ("step10", "step30")]
    assert (
        found[1]["loss"]["numbers"]
        == read_inspection(tmp_path / "alone")["parts"]["loss"]["numbers"]
    )
    assert found[0]["loss"]["numbers"] != found[1]["loss"]["numbers"]


def test_revisions_are_states_of_one_spectrum(tmp_path, capsys):
    write_data()
    write_family(tmp_path / "family")
    options = ["--data", "tokens.bin", "--batch-size", "2", "--num-batches", "2"]
    options += ["--num-matvecs", "4"]
    revisions = ["--revisions", "step10", "step20"]
    assert cli.main(["spectrum", "family", *revisions, *options]) == 0
    assert "displacement" in capsys.readouterr().out
    assert cli.main(["spectrum", "family/step20", *options]) == 0
    capsys.readouterr()
    with (
        np.load("spectrum/family/shells.npz") as family,
        np.load("spectrum/step20/shells.npz") as alone,
    ):
        assert {name.split("/")[0] for name in family} == {"step10", "step20"}
        assert "step20/displacement_peak" in family
        np.testing.assert_allclose(family["step20/energies"], alone["trained/energies"], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["inspect", "family", "--revisions", "step10,step10"], "--revisions: expected different"),
        (["inspect", "hf:a/b@c", "--revisions", "d"], "--revisions: expected hf:owner/name or a"),
        (
            ["inspect", "family", "--revisions", "step9"],
            "source: expected a folder with config.json",
        ),
        (
            ["spectrum", "family", "--revisions", "step10,other"],
            "--revisions: expected a model with",
        ),
        (["spectrum", "family", "other", "--revisions", "a"], "--revisions: expected one MODEL"),
    ],
)
def test_revisions_that_do_not_fit_are_refused(options, message, tmp_path, capsys):
    write_data()
    write_family(tmp_path / "family")
    fast = ["--data", "tokens.bin", "--batch-size", "2", "--num-matvecs", "4"]
    assert cli.main([*options, *fast]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_inspected_and_reported(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert cli.main(["report", "run"]) == 0
    assert capsys.readouterr().out == "run/report.html\n"
    page = parsed((tmp_path / "run" / "report.html").read_text())
    figures = sorted(file.read_bytes() for file in (tmp_path / "run" / "figures").iterdir())
    assert sorted(page.images) == figures
    assert "Inspection" not in page.text
    for name, value in config["model"].items():
        assert f"model/{name}{value}" in page.text

    options = ["--step", "8", "--parts", "loss", "weights"]
    assert cli.main(["inspect", "run", *FAST, *options]) == 0
    assert read_inspection(tmp_path / "run" / "inspect")["name"] == "run, step 8"
    assert cli.main(["report", "run", "--out", "page.html"]) == 0
    page = parsed((tmp_path / "page.html").read_text())
    assert len(page.images) == len(figures) + 1
    assert "run, step 8, made" in page.text


def test_flags_of_a_run_are_explained(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, "run")
    file = tmp_path / "run" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    measured = [row for row in rows if row["kind"] == "lnp"]
    for row in measured[2:4]:
        row["status"] = int(Status.LOST_IN_ROUNDING)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert cli.main(["report", "run"]) == 0
    assert "shown as they are" in capsys.readouterr().err
    page = parsed((tmp_path / "run" / "report.html").read_text())
    steps = [row["step"] for row in measured[2:4]]
    assert "".join(["LOST_IN_ROUNDING", "2", *map(str, steps), "lnp"]) in page.text.replace(
        "\n", ""
    )
    assert page.text.count(describe_status(Status.LOST_IN_ROUNDING)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere", "--data", "stdlib"], "source: expected a folder with config.json"),
        (["llama"], "--data: expected text or images to measure on"),
        (["llama", "--data", "nothing.txt"], "data: expected one of stdlib"),
        (["llama", "--data", "nothing.bin"], "data: expected one of stdlib"),
        (["llama", "--data", "stdlib"], "--tokenizer: expected at most the model's 7 tokens"),
        (
            ["llama", "--data", "large.bin"],
            "data: expected tokens below 7, the size of the vocabulary, got token 8",
        ),
        (["llama", "--data", "tokens.bin"], "--batch-size: expected at most 1/2 of the"),
        (["llama", "--data", "tokens.bin", "--context-length", "99"], "at most the model's 64"),
        (["llama", "--data", "tokens.bin", "--step", "3"], "--step: expected a run"),
        (["vit", "--data", "digits"], "--data: expected images of shape (6, 6, 2)"),
        (["vit", "--data", "images.npz"], "--batch-size: expected at most 1/2 of the 12 images"),
        (["vit", "--data", "images.npz", "--tokenizer", "x"], "--tokenizer: expected none for a"),
        (["llama", "--parts", "loss", "heads"], "--parts: expected some of loss, components"),
        (["llama", "--pixel-std", "0"], "--pixel-std: expected a number > 0"),
        (["llama", "--num-probes", "1"], "num_probes: expected an integer >= 2"),
        (["llama", "--seed", "-1"], "--seed: expected 0 to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message, tmp_path, capsys):
    write_data()
    np.full(900, 8, "<u2").tofile("large.bin")
    for name in ("llama", "vit"):
        write_folder(tmp_path / name, name)
    assert cli.main(["inspect", *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lnpjax")]
    assert message in line
    assert not (tmp_path / "inspect").exists()


def test_a_report_of_what_is_no_run_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
