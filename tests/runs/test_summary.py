"""What is read from a run's folder: losses, speeds and spectra that are known in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from lens_runs import LAYERS, TARGET, WEIGHT, config, make_run

from lnpjax.runs import Run, read_run


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return read_run(make_run(folder, tokens_to_target=10_000, end=40_000, alpha=1.0, drift=0.1))


def test_reading_a_run(one):
    assert one.name == "one"
    assert one.batch_size == 8
    assert one.tokens_per_second == pytest.approx(1e4)
    assert math.isnan(one.plain_tokens_per_second)
    assert one.num_tokens == 40_000
    assert one.final_loss == one.validation_losses[-1]
    assert one.loss_at(10_000) == pytest.approx(TARGET, abs=1e-4)
    assert math.isnan(one.loss_at(1e9))
    first = one.spectra[0]
    assert first.names("activations") == LAYERS
    assert first.number("activations", "rank_me") == 20
    assert first.number("activations", "rank_me", LAYERS[0]) == 10
    assert math.isnan(first.number("weights", "rank_me"))
    assert math.isnan(first.number("activations", "colour"))
    np.testing.assert_allclose(first.eigenvalues("gradients", WEIGHT)[:2], [3, 3 * 2**-1.5])
    assert first.eigenvalues("weights") is None
    assert first.probe("weights") is None


def test_spectra_of_older_runs_lie_at_the_tokens_before_their_step(tmp_path):
    with Run.create(tmp_path / "run", config()) as run:
        for step in (0, 3):
            tokens = 100 * (step + 1)
            run.append({"kind": "validation", "step": step, "tokens": tokens, "loss": 3.0})
            run.append({"kind": "spectra", "step": step, "tokens": tokens, "loss": 3.1})
    found = read_run(Run.open(tmp_path / "run"))
    np.testing.assert_array_equal(found.spectra_tokens(), [0, 300])


def test_gradients_are_read_at_the_last_attention_output_where_it_was_measured(one):
    names = ["layers/0/attention/output/kernel", WEIGHT, "layers/2/feed_forward/down/kernel"]
    given = {"gradients": {name: {"rank_me": float(i)} for i, name in enumerate(names)}}
    found = dataclasses.replace(one.spectra[0], summaries=given)
    assert found.probe("gradients") == WEIGHT
    assert found.number("gradients", "rank_me") == 1
    others = {"gradients": {name: given["gradients"][name] for name in names[2:]}}
    assert dataclasses.replace(found, summaries=others).probe("gradients") == names[2]


def test_throughput_is_that_of_all_sessions_together(tmp_path):
    with Run.create(tmp_path / "run", config()) as run:
        run.append({"kind": "train", "step": 0, "tokens": 3000, "loss": math.inf})
        run.append({"kind": "validation", "step": 0, "tokens": 3000, "loss": math.inf})
        for tokens, seconds, plain in ((1000, 2.0, 1000.0), (2000, 1.0, 4000.0)):
            session = {"kind": "session", "tokens": tokens, "seconds": seconds}
            run.append_session(session | {"plain_tokens_per_second": plain})
    found = read_run(Run.open(tmp_path / "run"))
    assert found.tokens_per_second == pytest.approx(3000 / 3)
    assert found.plain_tokens_per_second == pytest.approx(3000 / 1.5)
    assert found.spectra == ()
    assert math.isnan(found.final_loss)


def test_a_run_without_rows_is_refused(tmp_path):
    with (
        Run.create(tmp_path / "run", config()) as run,
        pytest.raises(ValueError, match="run: expected a run with training or validation rows"),
    ):
        read_run(run)
