from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax._base.reporting import Reporter
from lnpjax.data import Dataset
from lnpjax.lens import nnx_hidden_states
from lnpjax.pretraining import (
    DataOptions,
    Experiment,
    MeasurementOptions,
    ModelOptions,
    Outcome,
    PretrainConfig,
    TrainingOptions,
    create_run,
    cross_entropy,
    open_run,
    pretrain,
)
from lnpjax.pretraining.config import LEARNING_RATES, PRESETS
from lnpjax.runs import Run
from lnpjax.runs._rows import (
    POSITION_FILE,
    POSITION_NUMBERS,
    ROWS,
    SESSION,
    SHARED,
    SPECTRUM_NUMBERS,
)

STEPS = 23
MODEL = ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2)
DATA = DataOptions(max_bytes=8_000, context_length=8, num_validation=6, num_test=5)
TRAINING = TrainingOptions(
    steps=STEPS, batch_size=4, learning_rate=0.05, warmup_steps=5, validate_every=10,
    checkpoint_every=7,
)  # fmt: skip
MEASUREMENT = MeasurementOptions(window_width=3, spectra=5)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return DATA.load()


def resolve(dataset: Dataset, **training: Any) -> PretrainConfig:
    return PretrainConfig.resolve(
        dataset,
        model=MODEL,
        data=DATA,
        training=dataclasses.replace(TRAINING, **training),
        measurement=MEASUREMENT,
    )


def execute(experiment: Experiment, path: Path, **keywords: Any) -> Outcome:
    with create_run(experiment.config, experiment.dataset, path) as run:
        return pretrain(experiment, run, **keywords)


@pytest.fixture(scope="module")
def experiment(dataset: Dataset) -> Experiment:
    return Experiment(resolve(dataset), dataset)


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert execute(experiment, path).status == "finished"
    return path


def final_state(path: Path, experiment: Experiment) -> list[np.ndarray]:
    checkpoint = Run.open(path).read_checkpoint(experiment.abstract_state())
    assert checkpoint is not None
    assert checkpoint.step == STEPS
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.state)]


def assert_same_end(path: Path, other: Path, experiment: Experiment) -> None:
    assert (path / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for left, right in zip(
        final_state(path, experiment), final_state(other, experiment), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_finished_run_is_read_back(finished: Path, experiment: Experiment) -> None:
    loaded = lnpjax.load_run(finished)
    assert loaded.checkpoint_steps[-1] == STEPS
    assert len(loaded.frame("train")) == STEPS
    params = jax.tree.leaves(loaded.params())
    state = final_state(finished, experiment)
    for leaf in params:
        assert any(leaf.shape == other.shape and np.array_equal(leaf, other) for other in state)
    outputs = loaded.model()(jnp.zeros((1, 8), jnp.int32))
    assert np.all(np.isfinite(outputs))


def test_rows_are_complete_in_order_and_of_the_documented_form(finished: Path) -> None:
    run = Run.open(finished)
    rows = run.rows()
    windows = MEASUREMENT.windows(STEPS)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(STEPS))
    assert [row["step"] for row in rows if row["kind"] == "lnp"] == windows.steps.tolist()
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [0, 9, 19, STEPS - 1]
    assert [row["step"] for row in rows if row["kind"] == "spectra"] == [*windows.starts, STEPS - 1]
    assert [row["step"] for row in rows if row["kind"] == "test"] == [STEPS - 1]
    order = {"spectra": 0, "train": 1, "lnp": 2, "validation": 3, "test": 4}
    keys = [(row["step"], order[row["kind"]]) for row in rows]
    assert keys == sorted(keys)
    assert {row["kind"] for row in rows} == set(ROWS) - {"distribution"}  # not asked for
    for row in rows:
        shared = [field.name for field in SHARED]
        assert list(row) == ["kind", *shared, *ROWS[row["kind"]].names(optional=False)]
    for row in rows:
        assert row["tokens"] == (row["step"] + 1) * 4 * 8
        assert row["flops"] == 6.0 * run.config["num_parameters"] * row["tokens"]
    for row in run.rows("lnp"):
        assert row["window"] == windows.window(row["step"])
        assert row["status"] == 0
        assert row["delta_loss"] == pytest.approx(
            row["chi_loss"] * row["chi_net"] * row["chi_pos"], rel=1e-5
        )
        assert row["nu"] == pytest.approx(row["loss_change"] - row["linear_change"], abs=1e-6)
        total = sum(group["delta_loss"] for group in row["groups"].values())
        assert total == pytest.approx(row["delta_loss"], rel=1e-4)


def test_distributions_are_rows_too(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    rows = run.rows("distribution")
    names = [field.name for field in POSITION_NUMBERS]
    assert [list(row) for row in rows] == [["kind", "step", "tokens", "flops", *names]] * len(rows)
    assert [POSITION_FILE.name(row["step"]) for row in rows] == run.spectra() != []
    for row in rows:
        arrays = run.spectrum(POSITION_FILE.name(row["step"]))
        assert [row[name] for name in names] == [arrays[name].item() for name in names]
    steps = [row["step"] for row in run.rows()]
    assert steps == sorted(steps)


def test_spectra_are_recorded_as_the_measures_return_them(
    finished: Path, experiment: Experiment
) -> None:
    run = Run.open(finished)
    row = run.rows("spectra")[0]
    params = experiment.initial_state().params
    gate = "layers/0/attention/output/kernel"
    assert list(row["activations"]) == ["layers/0"]
    assert gate in row["gradients"]
    assert row["gradients"].keys() == row["weights"].keys()
    numbers = [summary for view in ("activations", "gradients", "weights") for summary in row[view]]
    assert len(numbers) == 1 + 4 + 4
    assert list(row["gradients"][gate]) == [field.name for field in SPECTRUM_NUMBERS]

    inputs, targets = experiment.pool

    @jax.jit
    @jax.grad
    def gradient(params, x, y):
        return cross_entropy(experiment.apply_fn(params, x[None]), y[None])

    rows = np.stack(
        [
            gradient(params, x, y)["layers"][0]["attention"]["output"]["kernel"][...].ravel()
            for x, y in zip(inputs, targets, strict=True)
        ]
    )
    eigenvalues = np.linalg.svd(rows, compute_uv=False) ** 2
    saved = run.spectrum("lens-00000000")
    np.testing.assert_allclose(saved[f"gradients/{gate}"], eigenvalues, rtol=2e-4, atol=1e-12)
    assert row["gradients"][gate]["trace"] == pytest.approx(eigenvalues.sum(), rel=1e-4)
    kernel = params["layers"][0]["attention"]["output"]["kernel"][...]
    np.testing.assert_allclose(
        saved[f"weights/{gate}"], np.linalg.svd(kernel, compute_uv=False) ** 2, rtol=1e-4
    )
    hidden_states, _ = nnx_hidden_states(experiment.model(), ["layers/0"])
    hidden = jax.jit(hidden_states)(params, inputs)["layers/0"]
    covariance = np.cov(np.asarray(hidden, np.float64).reshape(-1, 8), rowvar=False)
    np.testing.assert_allclose(
        saved["activations/layers/0"], np.linalg.eigvalsh(covariance)[::-1], rtol=1e-4
    )


def test_spectra_and_their_loss_are_of_before_the_update(
    finished: Path, experiment: Experiment
) -> None:
    run = Run.open(finished)
    after_update = {row["step"]: row["loss"] for row in run.rows("validation")}
    later = {row["step"]: row["loss"] for row in run.rows("spectra")}
    assert later[1] == after_update[0]
    for row in run.rows("spectra"):
        assert row["tokens_before"] == row["step"] * experiment.tokens_per_step
        assert row["tokens"] - row["tokens_before"] == experiment.tokens_per_step

    state = experiment.initial_state()
    state, _ = experiment.compiled.plain(state, experiment.batches.batch(0))
    kernel = state.params["layers"][0]["attention"]["output"]["kernel"][...]
    np.testing.assert_allclose(
        run.spectrum("lens-00000001")["weights/layers/0/attention/output/kernel"],
        np.linalg.svd(kernel, compute_uv=False) ** 2,
        rtol=1e-4,
    )


def test_a_process_leaves_its_speed(finished: Path) -> None:
    (session,) = Run.open(finished).sessions()
    assert list(session) == ["kind", *SESSION.names()]
    assert session["status"] == "finished"
    assert (session["first_step"], session["last_step"]) == (0, STEPS - 1)
    assert session["tokens"] == STEPS * 4 * 8
    assert session["tokens_per_second"] == pytest.approx(session["tokens"] / session["seconds"])
    assert session["plain_tokens_per_second"] > 0


def test_spectra_of_too_few_positions_are_refused_before_there_is_a_run(dataset: Dataset) -> None:
    config = resolve(dataset)
    model = dataclasses.replace(config.model, hidden_size=128)
    measurement = dataclasses.replace(config.measurement, spectra=4)
    with pytest.raises(ValueError, match="spectra: expected at least 5 sequences"):
        Experiment(dataclasses.replace(config, model=model, measurement=measurement), dataset)


def test_more_sequences_of_spectra_than_are_held_out_are_refused(dataset: Dataset) -> None:
    config = resolve(dataset)
    measurement = dataclasses.replace(config.measurement, spectra=7)
    with pytest.raises(ValueError, match="spectra: expected at most the 6 sequences"):
        Experiment(dataclasses.replace(config, measurement=measurement), dataset)


def test_training_lowers_the_loss(finished: Path) -> None:
    losses = Run.open(finished).columns("validation")["loss"]
    assert losses[0] == pytest.approx(math.log(256), abs=0.05)
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("stops", [(0, 1), (6, 7), (5, 13, 22)])
def test_a_stopped_run_ends_as_one_that_was_not(
    finished: Path, experiment: Experiment, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    path = tmp_path / "run"
    create_run(experiment.config, experiment.dataset, path).close()
    for stop in stops:
        with Run.open(path) as run:
            outcome = pretrain(experiment, run, should_stop=stop_before(stop, run))
        assert (outcome.status, outcome.steps_done) == ("stopped", stop)
    with Run.open(path) as run:
        assert pretrain(experiment, run).status == "finished"
    assert_same_end(path, finished, experiment)


def stop_before(step: int, run: Run) -> Callable[[], bool]:
    steps = iter(range(max(run.checkpoint_steps(), default=0), STEPS))
    return lambda: next(steps) == step


def test_a_finished_run_stays_as_it_is(
    finished: Path, experiment: Experiment, tmp_path: Path
) -> None:
    path = shutil.copytree(finished, tmp_path / "copy")
    run, config, data = open_run(path)
    with run:
        outcome = pretrain(Experiment(config, data), run)
    assert (outcome.status, outcome.steps_done) == ("finished", STEPS)
    assert math.isnan(outcome.tokens_per_second)
    assert_same_end(path, finished, experiment)


@pytest.mark.compiled_as_by_users
def test_measuring_does_not_change_training(
    finished: Path, dataset: Dataset, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        resolve(dataset), measurement=MeasurementOptions(windows_per_decade=1, window_width=1)
    )
    execute(Experiment(config, dataset), tmp_path / "run")
    rarely = Run.open(tmp_path / "run")
    assert len(rarely.rows("lnp")) < len(Run.open(finished).rows("lnp"))
    assert rarely.rows("train") == Run.open(finished).rows("train")
    assert rarely.rows("validation") == Run.open(finished).rows("validation")


def test_validation_loss_is_the_mean_over_the_whole_set(experiment: Experiment) -> None:
    state = experiment.initial_state()
    inputs, targets = experiment.dataset.validation(
        np.arange(6)
    )  # not a multiple of the batch size, 4
    expected = cross_entropy(jax.jit(experiment.apply_fn)(state.params, inputs), targets)
    loss = experiment.compiled.validation_scores(state.params)["loss"]
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_learning_rate_rises_linearly_then_stays(finished: Path) -> None:
    rates = Run.open(finished).columns("train")["learning_rate"]
    np.testing.assert_allclose(rates[:6], [0.01, 0.02, 0.03, 0.04, 0.05, 0.05], rtol=1e-6)
    assert np.unique(rates[4:]).size == 1


def test_batch_b_is_as_large_as_the_validation_set_allows(dataset: Dataset) -> None:
    experiment = Experiment(resolve(dataset, batch_size=20), dataset)
    assert [len(array) for array in experiment.validation_batch(3)] == [6, 6]


def test_divergence_keeps_the_rows_and_says_so(dataset: Dataset, tmp_path: Path) -> None:
    class Ear(Reporter):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    ear = Ear()
    config = resolve(dataset, learning_rate=1e25, warmup_steps=0, log_every=4)
    outcome = execute(Experiment(config, dataset), tmp_path / "run", reporter=ear)
    run = Run.open(tmp_path / "run")
    rows = run.rows("train")
    assert outcome.status == "diverged"
    assert math.isnan(rows[-1]["loss"])
    assert rows[-1]["step"] == outcome.steps_done < 7
    assert all(math.isfinite(row["loss"]) for row in rows[:-1])
    assert run.rows("lnp")[-1]["status"] != 0
    assert run.checkpoint_steps() == []
    assert "step" in ear.warnings[-1]
    assert "--learning-rate" in ear.warnings[-1]


def test_a_checkpoint_of_another_configuration_is_refused(finished: Path, tmp_path: Path) -> None:
    path = shutil.copytree(finished, tmp_path / "copy")
    edit_config(path, "training", learning_rate=0.1)
    run, config, data = open_run(path)
    message = r"where training/learning_rate is 0\.05, got 0\.1"
    with run, pytest.raises(ValueError, match=message):
        pretrain(Experiment(config, data), run)
    edit_config(path, "model", hidden_size=16)
    run, config, data = open_run(path)
    with run, pytest.raises(ValueError, match=r"abstract_state: expected the state of checkpoint"):
        pretrain(Experiment(config, data), run)


def edit_config(path: Path, section: str, **changes: Any) -> None:
    file = path / "config.json"
    config = json.loads(file.read_text())
    config[section] |= changes
    file.write_text(json.dumps(config))


def test_changed_data_are_refused(finished: Path, tmp_path: Path) -> None:
    path = shutil.copytree(finished, tmp_path / "copy")
    edit_config(path, "data", max_bytes=9_000)
    with pytest.raises(ValueError, match=r"data: expected the data that .* was started with"):
        open_run(path)


def test_config_survives_json(dataset: Dataset) -> None:
    config = resolve(dataset)
    text = json.dumps(config.to_json())
    assert PretrainConfig.from_json(json.loads(text), source="test") == config


def test_resolving_makes_paths_absolute_and_takes_the_vocabulary_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("once upon a time " * 50)
    data = DataOptions(data="story.txt", context_length=600, num_validation=1, max_bytes=2000)
    with pytest.raises(ValueError, match="data: expected more than num_validation"):
        data.load()
    data = dataclasses.replace(data, context_length=16)
    config = PretrainConfig.resolve(data.load(), data=data, model=ModelOptions(preset="1.2M"))
    assert config.data.data == str(tmp_path / "story.txt")
    assert config.model.vocab_size == 256
    assert config.training.learning_rate == LEARNING_RATES["1.2M"] == 1e-2


def test_a_long_context_stretches_the_preset() -> None:
    assert ModelOptions().resolve(vocab_size=9, context_length=600).max_seq_len == 600


def test_heads_follow_changed_sizes() -> None:
    model = ModelOptions(hidden_size=8, num_heads=4).resolve(vocab_size=9, context_length=8)
    assert model.head_width == 2
    assert ModelOptions(preset="12.5M").resolve(vocab_size=9, context_length=8).head_width == 76


def test_every_preset_has_a_learning_rate() -> None:
    assert list(LEARNING_RATES) == list(PRESETS)
    assert len(PRESETS) == 16


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (TrainingOptions(steps=0).check, "steps: expected an integer >= 1, got 0"),
        (TrainingOptions(seed=-1).check, "seed: expected an integer >= 0, got -1"),
        (TrainingOptions(learning_rate=math.nan).check, "learning_rate: expected a finite"),
        (MeasurementOptions(num_probes=0).check, "num_probes: expected an integer >= 1, got 0"),
        (
            MeasurementOptions(estimator="exact", num_probes=2).check,
            "num_probes: expected 1 with the estimator exact",
        ),
        (
            MeasurementOptions(estimator="global", microbatch_size=2).check,
            "microbatch_size: expected None with the estimator global",
        ),
        (
            MeasurementOptions(estimator="best").check,  # type: ignore[arg-type]
            "estimator: expected one of hutchinson, global, exact, got 'best'",
        ),
        (
            lambda: MeasurementOptions().windows(9),
            "window_width: expected at most the 9 steps of the run, so that a window fits, got 10",
        ),
    ],
)
def test_options_refuse_what_cannot_be(check: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check()


def test_a_run_from_before_an_option_existed_still_opens(experiment: Experiment) -> None:
    written = experiment.config.to_json()
    del written["training"]["checkpoints_kept"], written["measurement"]["distribution"]
    del written["measurement"]["spectra"]
    measurement = dataclasses.replace(experiment.config.measurement, spectra=0)
    old = dataclasses.replace(experiment.config, measurement=measurement)
    assert PretrainConfig.from_json(written, source="test") == old
    del written["training"]["steps"]
    with pytest.raises(ValueError, match="training: expected an object with"):
        PretrainConfig.from_json(written, source="test")


@pytest.mark.parametrize("outside", [-1, -100, 4])
def test_cross_entropy_takes_tokens_only(outside):
    """A label of -1 would count as the last token; -100 marks what others leave out of a loss."""
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]]]))
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([[0, 3]])), 1.5 * np.log(2))
    bad = jnp.array([[0, outside]])
    with pytest.raises(ValueError, match=r"^targets: expected ids from 0 to 3, got "):
        cross_entropy(logits, bad)
    assert np.isnan(jax.jit(cross_entropy)(logits, bad))
