"""A linear probe on documents, from another run: what is trained, measured, kept and resumed."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax._base.reporting import Reporter
from lnpjax.data import PADDING, Dataset
from lnpjax.models import split_llama
from lnpjax.parameters import paths
from lnpjax.pretraining import (
    DataOptions,
    Experiment,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    StartOptions,
    TrainingOptions,
    create_run,
    cross_entropy,
    pretrain,
    read_model,
)
from lnpjax.runs import Run

STEPS, CONTEXT = 12, 8


class Ear(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataOptions, Dataset]:
    file = tmp_path_factory.mktemp("data") / "stories.txt"
    stories = [f"{'once upon a time'[: 3 + number % 12]} {number}" for number in range(40)]
    file.write_text("".join(f"{story}<|endoftext|>" for story in stories))
    options = DataOptions(
        data=str(file), sequences="documents", context_length=CONTEXT, num_validation=6, num_test=5
    )
    return options, options.load()


@pytest.fixture(scope="module")
def experiment(dataset: tuple[DataOptions, Dataset], tiny_run: Path) -> Experiment:
    options, data = dataset
    config = PretrainConfig.resolve(
        data,
        data=options,
        model=ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2),
        training=TrainingOptions(
            steps=STEPS, batch_size=4, learning_rate=0.05, warmup_steps=2, schedule="cosine",
            clip_norm=0.5, test_every=5, checkpoint_every=4, checkpoints_kept=1,
            checkpoints_at="2,5", fill_last_batch=True,
        ),
        measurement=MeasurementOptions(window_width=2),
        start=StartOptions(init_from=str(tiny_run), init_step=8, fresh="head", wrt="head"),
    )  # fmt: skip
    return Experiment(config, data)


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ear]:
    path, ear = tmp_path_factory.mktemp("runs") / "probe", Ear()
    with create_run(experiment.config, experiment.dataset, path) as run:
        assert pretrain(experiment, run, reporter=ear).status == "finished"
    return path, ear


def named(params) -> dict[str, np.ndarray]:
    return dict(zip(paths(params), map(np.asarray, jax.tree.leaves(params)), strict=True))


def test_only_the_named_part_is_trained_and_only_the_fresh_one_is_new(
    experiment, finished, tiny_run
):
    start = named(experiment.initial_state().params)
    source = named(split_llama(read_model(tiny_run, step=8)[0])[1])
    end = named(split_llama(read_model(finished[0])[0])[1])
    assert start.keys() == source.keys() == end.keys()
    for name in start:
        is_head = name.startswith("head")
        assert np.array_equal(start[name], source[name]) is not is_head, name
        assert np.array_equal(start[name], end[name]) is not is_head, name


def test_the_part_is_what_is_measured(finished):
    rows = Run.open(finished[0]).rows("lnp")
    assert rows[-1]["step"] == STEPS - 1
    for row in rows:
        assert list(row["groups"]) == ["head"]
        assert row["status"] == 0  # with padding too, the loss is a mean over samples
        product = row["chi_loss"] * row["chi_net"] * row["chi_pos"]
        assert product == pytest.approx(row["delta_loss"], rel=1e-5)


def test_test_losses_kept_checkpoints_and_the_second_epoch(experiment, finished):
    path, ear = finished
    run = Run.open(path)
    assert [row["step"] for row in run.rows("test")] == [4, 9, STEPS - 1]
    assert run.checkpoint_steps() == [2, 5, STEPS]
    assert experiment.dataset.num_train == 29
    assert [note for note in ear.notes if "epoch" in note] == [
        "step 8 begins the second epoch: its samples were seen before"
    ]


def test_the_test_loss_is_the_mean_over_documents(experiment, finished):
    state = Run.open(finished[0]).read_checkpoint(experiment.abstract_state()).state
    losses = []
    for inputs, targets in zip(*experiment.dataset.test(np.arange(5)), strict=True):
        logits = experiment.apply_fn(state.params, inputs[None])[0]
        chosen = jax.nn.log_softmax(logits)[np.arange(CONTEXT), np.maximum(targets, 0)]
        losses.append(-np.mean(chosen[targets != PADDING]))
    last = Run.open(finished[0]).rows("test")[-1]["loss"]
    assert last == pytest.approx(np.mean(losses), rel=1e-5)
    assert any((experiment.dataset.test(np.arange(5))[1] == PADDING).any(axis=1))


def test_a_stopped_probe_ends_as_one_that_was_not(experiment, finished, tmp_path):
    path, stop = tmp_path / "run", 6
    create_run(experiment.config, experiment.dataset, path).close()
    steps = iter(range(STEPS))
    with Run.open(path) as run:
        assert pretrain(experiment, run, should_stop=lambda: next(steps) == stop).steps_done == stop
    with Run.open(path) as run:
        assert pretrain(experiment, run).status == "finished"
    name = "metrics.jsonl"
    assert (path / name).read_bytes() == (finished[0] / name).read_bytes()
    end, other = (named(split_llama(read_model(folder)[0])[1]) for folder in (path, finished[0]))
    for leaf in end:
        np.testing.assert_array_equal(end[leaf], other[leaf])


def test_padding_counts_for_nothing_and_sequences_for_the_same():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]] * 2))
    targets = jnp.array([[0, 2], [1, PADDING]])
    expected = (1.5 * np.log(2) + 2 * np.log(2)) / 2
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-6)
    gradient = jax.jit(jax.grad(cross_entropy))(logits, targets)
    np.testing.assert_array_equal(gradient[1, 1], 0)
    np.testing.assert_allclose(gradient[1, 0], [0.25, -0.375, 0.125], rtol=1e-6)
