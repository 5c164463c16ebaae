"""`lnpjax train --config FILE`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lnpjax import cli
from lnpjax._base.reporting import Reporter
from lnpjax.commands._config_file import options_of_file
from lnpjax.commands._exit import Exit
from lnpjax.commands.train import Train
from lnpjax.models.presets import PRESETS
from lnpjax.pretraining import (
    DataOptions,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    TrainingOptions,
    create_run,
)
from lnpjax.pretraining.folders import DESCRIPTIVE

YAML = """
steps: 40
data: stories.txt
training: {seed: 7, learning-rate: 5e-3}
model:
  preset: 1.2M
  tie_embeddings: true
measurement:
"""


def config_of(model: ModelOptions, **data: Any) -> PretrainConfig:
    return PretrainConfig(
        model=model.resolve(vocab_size=256, context_length=64),
        data=DataOptions(context_length=64, **data),
        training=TrainingOptions(steps=77, learning_rate=0.003, mesh="data=1"),
        measurement=MeasurementOptions(num_probes=2),
    )


def write_run(path: Path, config: PretrainConfig) -> Path:
    """As `create_run` does."""
    described = dict.fromkeys(DESCRIPTIVE["run"], "x") | config.to_json()
    described["data"] |= dict.fromkeys(DESCRIPTIVE["data"], "x")
    path.write_text(json.dumps(described))
    return path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Train]:
    """The commands that were called, none of which trains."""
    monkeypatch.chdir(tmp_path)
    commands: list[Train] = []
    monkeypatch.setattr(Train, "__call__", lambda self: commands.append(self) or 0)
    return commands


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(called):
    Path("mine.yaml").write_text(YAML)
    assert cli.main(["train", "--seed", "9", "--config", "mine.yaml", "--no-tie-embeddings"]) == 0
    assert cli.main(["train", "--config=mine.yaml", "--preset", "115K"]) == 0
    first, second = called
    assert first.training == TrainingOptions(steps=40, seed=9, learning_rate=5e-3)
    assert first.model == ModelOptions(preset="1.2M")
    assert second.model == ModelOptions(preset="115K", tie_embeddings=True)
    assert (second.training.seed, second.data) == (7, DataOptions(data="stories.txt"))
    assert second.measurement == MeasurementOptions()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("changes", [{}, {"num_layers": 1}, {"hidden_size": 96, "num_heads": 3}])
def test_the_config_of_a_run_gives_the_options_of_the_same_run(tmp_path, preset, changes):
    model = ModelOptions(preset=preset, dtype="bfloat16", **changes)
    config = config_of(model, data="hf:a/b", max_bytes=9)
    read = options_of_file(Train, write_run(tmp_path / "config.json", config))
    assert read.model.resolve(vocab_size=256, context_length=64) == config.model
    if not changes:
        assert read.model == model
    assert (read.data, read.training) == (config.data, config.training)
    assert read.measurement == config.measurement
    assert dataclasses.replace(read, output=Train().output) == read


def test_the_config_that_a_run_writes_is_taken(tmp_path):
    data = DataOptions(max_bytes=20_000, num_validation=8)
    dataset = data.load()
    config = PretrainConfig.resolve(dataset, data=data)
    with create_run(config, dataset, tmp_path / "run") as run:
        read = options_of_file(Train, run.path / "config.json")
    again = PretrainConfig.resolve(
        dataset, model=read.model, data=read.data, training=read.training
    )
    assert again == config


def test_a_run_can_be_changed_on_the_command_line(called, tmp_path):
    write_run(tmp_path / "config.json", config_of(ModelOptions(preset="15.5M")))
    assert cli.main(["train", "--config", "config.json", "--num-layers", "2"]) == 0
    assert called[0].model == ModelOptions(preset="15.5M", num_layers=2)


def test_the_command_line_overrides_a_recipe(called):
    arguments = ["train", "--recipe", "pixels", "--batch-size", "64", "--num-test", "9"]
    assert cli.main(arguments) == 0
    (command,) = called
    assert (command.recipe, command.model.preset) == ("pixels", "102.6K")
    assert (command.training.steps, command.training.batch_size) == (42_207, 64)
    assert (command.data.num_validation, command.data.num_test) == (4096, 9)
    assert command.measurement == MeasurementOptions(window_width=50, open_end=True)


def test_a_learning_rate_of_the_paper_at_another_batch_is_warned_of():
    class Ear(Reporter):
        def warn(self, text: str) -> None:
            warnings.append(text)

    warnings: list[str] = []
    for model, training in (
        (ModelOptions(preset="102.6K"), TrainingOptions()),
        (ModelOptions(preset="102.6K"), TrainingOptions(batch_size=128)),
        (ModelOptions(preset="102.6K"), TrainingOptions(learning_rate=0.01)),
        (ModelOptions(preset="7.2M"), TrainingOptions()),
        (ModelOptions(), TrainingOptions(batch_size=8)),
    ):
        Train(model=model, training=training)._warn_of_misfits(Ear())
    Train(recipe="stories", data=DataOptions(context_length=512))._warn_of_misfits(Ear())
    warning, of_bytes = warnings
    assert of_bytes.endswith("most stories have more than 512: they are cut there")
    assert "0.04, is the paper's for batches of 128, not of 32: --recipe pixels" in warning


def test_a_recipe_does_not_go_with_a_run_that_has_its_own_settings(capsys):
    assert cli.main(["train", "--recipe", "stories", "--resume", "run"]) == Exit.REFUSED
    assert capsys.readouterr().err.endswith("since the run has its own, got --recipe\n")


REFUSED = {
    "no recipe": ("recipe: [1]", "recipe: expected one of stories, pixels, got [1]"),
    "near": ("sede: 3", "mine.yaml: expected options of lnpjax train (the nearest is seed), got"),
    "near, in its section": ("training: {sede: 3}", "training: expected the fields of Training"),
    "of another section": ("model: {steps: 3}", "model: expected the fields of ModelOptions, got"),
    "file in a file": ("config: other.yaml", "expected options of lnpjax train, got config"),
    "wrong type": ("steps: many", "training.steps: expected an integer, got 'many'"),
    "number for a section": ("training: 3", "training: expected TrainingOptions, got"),
    "wrong choice": ("estimator: best", "expected one of 'hutchinson', 'global', 'exact', got"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_file_must_not_hold_is_refused_in_a_line(called, capsys, case):
    content, message = REFUSED[case]
    Path("mine.yaml").write_text(content)
    assert cli.main(["train", "--config", "mine.yaml"]) == Exit.REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not called


def test_a_run_that_was_changed_by_hand_is_refused_where_options_cannot_say_it(tmp_path):
    config = config_of(ModelOptions())
    for section, key, message in (
        ("training", "sede", r"training: .*the nearest is seed\), got sede"),
        ("model", "rope_base", "model: expected a model that the options of lnpjax train make"),
    ):
        file = write_run(tmp_path / "config.json", config)
        values = json.loads(file.read_text())
        values[section][key] = 500.0
        file.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            options_of_file(Train, file)


def test_a_file_does_not_go_with_a_run_that_has_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(YAML)
    assert cli.main(["train", "--config", "mine.yaml", "--resume", "run"]) == Exit.REFUSED
    assert capsys.readouterr().err.endswith("since the run has its own, got --config\n")
