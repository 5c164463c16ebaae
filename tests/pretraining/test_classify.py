"""Labelled images: what is loaded, refused, trained, recorded, stopped and read again."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lnpjax
from lnpjax import cli
from lnpjax.commands._config_file import options_of_file
from lnpjax.commands.train import Train
from lnpjax.models.presets import MUP_VIT_PRESETS, VIT_PRESETS
from lnpjax.pretraining import (
    DataOptions,
    Experiment,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    create_run,
    open_run,
    pretrain,
)
from lnpjax.pretraining.config import CLASSIFIERS, TrainingOptions
from lnpjax.pretraining.config.networks import KINDS, build
from lnpjax.pretraining.config.own import load_function
from lnpjax.runs import Run

STEPS, CLASSES = 6, 3
SHAPE = (4, 4, 1)
SIZES = {"hidden_size": 4, "num_layers": 1}
OWN = """
import math
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self, shape, outputs, rngs):
        self.linear = nnx.Linear(math.prod(shape), outputs, rngs=rngs)
    def __call__(self, images):
        return self.linear(images.reshape(len(images), -1))

class Normed(Net):
    def __call__(self, images):
        return super().__call__(images - jnp.mean(images, axis=0))

def one_output(input_shape, num_outputs, *, rngs):
    return Net(input_shape, 1, rngs)

def interacting(input_shape, num_outputs, *, rngs):
    return Normed(input_shape, num_outputs, rngs)

def text(input_shape, num_outputs, *, rngs):
    return "a model"

def failing(shape):
    return None

number = 3
"""


def save(folder: Path, name: str = "images.npz", **arrays) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(30) % CLASSES
    images = rng.integers(0, 99, (30, *SHAPE)).astype(np.uint8)
    images[np.arange(30), labels] += 150  # a lighter row tells the class
    np.savez(folder / name, **({"x": images, "y": labels} | arrays))
    return folder / name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataOptions:
    file = save(tmp_path_factory.mktemp("data"))
    return DataOptions(task="classify", data=str(file), num_validation=6, num_test=5)


def resolve(data: DataOptions, **model) -> PretrainConfig:
    return PretrainConfig.resolve(
        data.load(),
        data=data,
        model=ModelOptions(**({"model": "mlp"} | SIZES | model)),
        training=TrainingOptions(steps=STEPS, batch_size=4, checkpoint_every=2, warmup_steps=1),
        measurement=MeasurementOptions(window_width=1),
    )


@pytest.fixture(scope="module")
def experiment(data: DataOptions) -> Experiment:
    return Experiment(resolve(data), data.load())


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    with create_run(experiment.config, experiment.dataset, path) as run:
        assert pretrain(experiment, run).status == "finished"
    return path


def test_rows_have_an_accuracy_and_measurements_no_error(experiment, finished):
    run = Run.open(finished)
    state = run.read_checkpoint(experiment.abstract_state()).state
    for kind, count, samples in (
        ("validation", 6, experiment.dataset.validation),
        ("test", 5, experiment.dataset.test),
    ):
        images, labels = samples(np.arange(count))
        logits = experiment.apply_fn(state.params, jnp.asarray(images))
        expected = np.mean(np.argmax(logits, axis=1) == labels)
        assert run.rows(kind)[-1]["accuracy"] == pytest.approx(expected)
        chosen = jnp.take_along_axis(nnx.log_softmax(logits), labels[:, None], axis=1)
        assert run.rows(kind)[-1]["loss"] == pytest.approx(-float(jnp.mean(chosen)), rel=1e-5)
    assert run.config["measurement"]["estimator"] == "exact"
    for row in run.rows("lnp"):
        assert (row["status"], row["chi_net_sem"]) == (0, 0.0)
        assert row["tokens"] == 4 * (row["step"] + 1)
        product = row["chi_loss"] * row["chi_net"] * row["chi_pos"]
        assert product == pytest.approx(row["delta_loss"], rel=1e-5)


def test_a_stopped_run_ends_as_one_that_was_not(experiment, finished, tmp_path):
    path, steps = tmp_path / "run", iter(range(STEPS))
    create_run(experiment.config, experiment.dataset, path).close()
    with Run.open(path) as run:
        assert pretrain(experiment, run, should_stop=lambda: next(steps) == 3).steps_done == 3
    # As after SIGKILL: rows beyond the last checkpoint, and half of one.
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'{"kind": "train", "step": 3}\n{"kind": "tr')
    run, config, dataset = open_run(path)
    assert (config, dataset.fingerprint) == (experiment.config, experiment.dataset.fingerprint)
    with run:
        assert pretrain(experiment, run).status == "finished"
    assert metrics.read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_a_run_is_read_drawn_and_made_again(experiment, finished, capsys):
    loaded = lnpjax.load_run(finished)
    outputs = loaded.model()(jnp.ones((2, *SHAPE)))
    assert outputs.shape == (2, CLASSES)
    assert loaded.frame("validation")["accuracy"].between(0, 1).all()
    assert "test accuracy" in loaded._repr_html_()
    for command in (["plot"], ["report"]):
        assert cli.main([*command, str(finished)]) == 0
    assert (finished / "figures" / "accuracy.png").stat().st_size > 0
    assert cli.main(["export", str(finished)]) == 2
    assert "run: expected the run of a llama or a vit" in capsys.readouterr().err
    command = options_of_file(Train, finished / "config.json")
    again = PretrainConfig.resolve(
        experiment.dataset,
        model=command.model,
        data=command.data,
        training=command.training,
        measurement=command.measurement,
        start=command.start,
    )
    assert again == experiment.config


@pytest.mark.parametrize("kind", ["vit", "mlp", "cnn"])
def test_parameters_are_counted_and_configurations_come_back(data, kind):
    heads = {"num_heads": 2, "intermediate_size": 8, "patch_size": 2} if kind == "vit" else {}
    config = resolve(data, model=kind, **heads)
    params = nnx.state(nnx.eval_shape(lambda: build(config.model, nnx.Rngs(0))), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == config.model.num_parameters
    assert isinstance(config.model, KINDS[kind])
    assert PretrainConfig.from_json(config.to_json(), source="test", refuse_unknown=True) == config


def test_presets_of_vits_are_those_of_the_paper():
    for name, preset in {**MUP_VIT_PRESETS, **VIT_PRESETS}.items():
        assert CLASSIFIERS[name] == preset
        options = ModelOptions(preset=name)
        assert options.resolve(vocab_size=10, sample_shape=(32, 32, 3)) == preset


def test_the_estimator_is_exact_where_outputs_are_few():
    for options, outputs, expected in (
        (MeasurementOptions(), 16, "exact"),
        (MeasurementOptions(), 17, "hutchinson"),
        (MeasurementOptions(num_probes=2), 10, "hutchinson"),
        (MeasurementOptions(estimator="global"), 10, "global"),
    ):
        assert options.resolve(outputs).estimator == expected


BAD_DATA = {
    "one class": ({"y": np.zeros(30, int)}, {}, "data: expected images of two classes at least"),
    "negative": ({"y": np.arange(30) - 1}, {}, r"labels: expected classes in \[0, 29\).*-1 to 28"),
    "out of range": ({}, {"num_classes": 2}, r"labels: expected classes in \[0, 2\).*got 0 to 2"),
    "absurd": ({"y": np.arange(30) * 10**6}, {}, "labels: expected labels below the number of"),
    "fractions": ({"y": np.linspace(0, 2, 30)}, {}, "n labels, integers, .*got .*float64"),
    "floats": ({"x": np.zeros((30, 4, 4))}, {}, "uint8 images"),
    "a tokenizer": ({}, {"tokenizer": "bytes"}, "tokenizer: expected None with the task classify"),
    "packing": ({}, {"sequences": "documents"}, "sequences: expected packed with the task"),
    "another task": ({}, {"task": "next-token"}, "task: expected next-pixel or classify for"),
    "no task": ({}, {"task": "paint"}, "task: expected one of next-token, next-pixel, classify"),
    "classes of text": ({}, {"task": None, "num_classes": 3}, "num_classes: expected None with"),
    "too few": ({}, {"num_validation": 26}, "data: expected more than num_validation = 26"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_refused(tmp_path, name):
    arrays, options, message = BAD_DATA[name]
    file = save(tmp_path, **arrays)
    given = {"task": "classify", "data": str(file), "num_validation": 6, "num_test": 5} | options
    with pytest.raises(ValueError, match=message):
        DataOptions(**given).load()


def test_pictures_of_mixed_size_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, size in (("cat", (4, 4)), ("dog", (4, 5))):
        (tmp_path / name).mkdir()
        image.new("L", size).save(tmp_path / name / "1.png")
    with pytest.raises(ValueError, match=r"dog.*expected the size \(4, 4\) of the first, got"):
        DataOptions(task="classify", data=str(tmp_path)).load()


BAD_MODELS = {
    "unknown": ({"model": "rnn"}, "model: expected one of llama, vit, mlp, cnn, or FILE.py:FUNC"),
    "of tokens": ({"model": "llama"}, "model: expected vit, mlp or cnn, or FILE.py:FUNCTION, for"),
    "without heads": ({"num_heads": 2}, "num_heads: expected None with the model mlp, got 2"),
    "a preset": ({"preset": "70K"}, "preset: expected None with the model mlp, got 70K"),
    "no preset": ({"model": "vit", "preset": "115K"}, "preset: expected one of 70K, .* for vit"),
    "patches": ({"model": "vit", "patch_size": 3}, "patch_size: expected a divisor of image_size"),
    "too deep": ({"model": "cnn", "num_layers": 3}, "num_layers: expected at most 2 convolutions"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_that_do_not_fit_are_refused(name):
    options, message = BAD_MODELS[name]
    with pytest.raises(ValueError, match=message):
        ModelOptions(**({"model": "mlp"} | options)).resolve(vocab_size=3, sample_shape=SHAPE)


def documented_model() -> str:
    """The file that the documentation shows."""
    page = Path(__file__).parents[2] / "docs" / "guides" / "command-line.md"
    return page.read_text().partition('```python title="my_file.py"\n')[2].partition("```")[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(documented_model() + OWN)
    return file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"model: expected the name of a function in .*mine.py \(there are .*make_mod"),
        ("number", "model: expected the name of a function"),
        ("text", "model: expected a function that returns a flax.nnx.Module, got str"),
        ("failing", r"model: failing\(\(4, 4, 1\), 3, rngs=...\) fails: TypeError"),
        ("one_output", r"model: expected logits of shape \(2, 3\) .* got \(2, 1\)"),
    ],
)
def test_own_models_that_are_none_are_refused(own, name, message):
    options = ModelOptions(model=f"{own}:{name}")
    with pytest.raises(ValueError, match=message):
        options.resolve(vocab_size=CLASSES, sample_shape=SHAPE)


def test_files_without_a_model_are_refused(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_like_this")
    with pytest.raises(ValueError, match=r"broken.py cannot be run: ModuleNotFoundError"):
        ModelOptions(model=f"{broken}:make").resolve(vocab_size=3, sample_shape=SHAPE)
    with pytest.raises(FileNotFoundError, match=r"model: expected FILE.py:FUNCTION, of a Python"):
        ModelOptions(model="nowhere.py:make").resolve(vocab_size=3, sample_shape=SHAPE)


def test_an_own_model_whose_samples_interact_is_refused_before_training(own, data):
    config = resolve(data, model=f"{own}:interacting", hidden_size=None, num_layers=None)
    function = load_function(f"{own}:interacting")
    with pytest.raises(ValueError, match="model: expected a model that says of a sample the same"):
        Experiment(config, data.load(), make_model=function)


def test_an_own_model_is_trained_and_its_file_runs_only_where_it_is_named(
    own, data, tmp_path, capsys
):
    run, name = tmp_path / "run", f"{own}:make_model"
    sizes = f"--num-validation 6 --num-test 5 --steps {STEPS} --batch-size 4 --window-width 1"
    common = ["--task", "classify", "--data", str(data.data), *sizes.split()]
    assert cli.main(["train", *common, "--model", name, "--out", str(run)]) == 0
    config = Run.open(run).config
    assert config["model"]["kind"] == "own"
    assert config["num_parameters"] == (16 + 1) * 64 + (64 + 1) * CLASSES
    for command, message in (
        (["train", "--resume", str(run)], "--model: expected FILE.py:make_model again"),
        (["train", "--config", str(run / "config.json")], "model: expected a model that the"),
        (["inspect", str(run)], "make_model: expected the function make_model of"),
    ):
        capsys.readouterr()
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(run), "--model", name]) == 0
    other = tmp_path / "mine.py"
    other.write_text(own.read_text() + "\n# changed")
    assert cli.main(["train", "--resume", str(run), "--model", f"{other}:make_model"]) == 2
    assert "model: expected the code that the run was started with" in capsys.readouterr().err
    model = lnpjax.load_run(run).model(make_model=load_function(name))
    assert model(jnp.ones((2, *SHAPE))).shape == (2, CLASSES)
