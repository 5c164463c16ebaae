"""`lnpjax export`: a run's model as a folder that `transformers` loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax import cli
from lnpjax.models import load_checkpoint, split_llama
from lnpjax.pretraining import open_run, read_model
from lnpjax.pretraining.program import Experiment


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_run, "run"))


def test_an_exported_model_computes_what_the_run_does(run, capsys):
    assert cli.main(["export", "run"]) == 0
    out = capsys.readouterr().out
    assert "step 12" in out
    assert "run/export/12" in out
    exported = load_checkpoint("run/export/12")
    opened, config, dataset = open_run(run)
    experiment = Experiment(config, dataset)
    checkpoint = opened.read_checkpoint(experiment.abstract_state())
    tokens = jnp.arange(8)[None]
    expected = experiment.apply_fn(checkpoint.state.params, tokens)
    np.testing.assert_array_equal(exported.apply_fn(exported.params, tokens), expected)
    description = json.loads(Path("run/export/12/config.json").read_text())
    assert description["architectures"] == ["LlamaForCausalLM"]


def test_any_checkpoint_goes_to_any_folder_and_needs_no_data(run, capsys):
    config = json.loads((run / "config.json").read_text())
    config["data"]["data"] = "/nowhere/gone.txt"
    (run / "config.json").write_text(json.dumps(config))
    assert cli.main(["export", "run", "--step", "4", "--out", "first", "--to", "safetensors"]) == 0
    model, _, step = read_model(run, step=4)
    assert step == 4
    tokens = jnp.arange(8)[None]
    apply_fn, params = split_llama(model)
    exported = load_checkpoint("first")
    np.testing.assert_array_equal(
        exported.apply_fn(exported.params, tokens), apply_fn(params, tokens)
    )
    assert "bytes or pixels" in capsys.readouterr().out


def test_the_tokenizer_goes_along(run):
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    backend.save("mine.json")
    config = json.loads((run / "config.json").read_text())
    config["data"]["tokenizer"] = str(Path("mine.json").absolute())
    (run / "config.json").write_text(json.dumps(config))
    assert cli.main(["export", "run", "--out", "with"]) == 0
    exported = load_checkpoint("with")
    assert exported.tokenizer.encode("a").tolist() == [0]
    assert json.loads(Path("with/config.json").read_text())["eos_token_id"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "expected a run folder, got"),
        (["run", "--step", "5"], "step: expected one of [4, 8, 12], got 5"),
        (
            ["run", "--out", "run"],
            "folder: expected a new or empty folder, got run, which has files",
        ),
    ],
)
def test_bad_options_end_in_one_line(run, options, message, capsys):
    assert cli.main(["export", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_without_a_checkpoint_is_refused(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert cli.main(["export", "run"]) == 2
    assert "path: expected a run with a checkpoint, got none in" in capsys.readouterr().err
