"""The cross-checks agree where everything is right, and say so where it is not."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import cli
from lnpjax.commands._exit import Exit
from lnpjax.kernel import Modes
from lnpjax.validation import (
    OutputSpace,
    Subject,
    _validate,
    run_checkpoint,
    small_network,
    validate,
)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")


def subject_of(name):
    case = zoo.build(name)
    return Subject(case.apply_fn, case.loss_fn, case.params, case.batch_a, case.batch_b)


def by_name(validation):
    return {finding.quantity: finding for finding in validation.findings}


@pytest.mark.parametrize("name", ["mlp", "raw_parameters"])
def test_both_backends_agree_with_what_is_cheap(x64, name):
    validation = validate(subject_of(name), backends=("jax", "neural_tangents"))
    findings = by_name(validation)
    assert validation.agrees, [f for f in validation.findings if not f.agrees]
    for quantity in ("delta_loss", "chi_net", "chi_pos across A, B", "effective rank"):
        assert set(findings[quantity].exact) == {"jax", "neural_tangents"}
        assert findings[quantity].tolerance == 1e-9
    assert findings["effective rank"].cheap is None
    assert isinstance(validation.modes, Modes)


@pytest.mark.parametrize(
    ("function", "spoilt"),
    [
        ("entk", {"delta_loss", "chi_net", "chi_net, 8 random probes", "delta_loss, real steps"}),
        ("squared_jacobian_norm", {"chi_net, 8 random probes"}),
        ("mode_pairs", {"chi_pos across A, B", "delta_loss across A, B"}),
        ("step_along_gradient", {"delta_loss, real steps"}),
    ],
)
def test_a_number_that_is_off_is_found(x64, monkeypatch, function, spoilt):
    """Each ingredient scaled by 1.5 in turn."""
    original = getattr(_validate, function)

    def scaled(*arguments, **options):
        return jax.tree.map(lambda leaf: 1.5 * leaf, original(*arguments, **options))

    def scaled_motion(*arguments, **options):
        steps = original(*arguments, **options)
        return lnpjax.kernel.ModeStep(
            **{
                **{name: getattr(steps, name) for name in steps.__dataclass_fields__},
                "actual_loss_change": 1.5 * steps.actual_loss_change,
            }
        )

    replacement = scaled_motion if function == "step_along_gradient" else scaled
    monkeypatch.setattr(_validate, function, replacement)
    validation = validate(subject_of("mlp"))
    found = {finding.quantity for finding in validation.findings if not finding.agrees}
    assert not validation.agrees
    assert spoilt <= found
    assert "chi_loss" not in found


def test_nan_never_agrees(x64):
    subject = subject_of("mlp")
    inputs, targets = subject.batch_a
    broken = Subject(
        lambda params, x: subject.apply_fn(params, x).at[0, 0].multiply(0.0) * jnp.nan,
        subject.loss_fn, subject.params, (inputs, targets), subject.batch_b,
    )  # fmt: skip
    with pytest.raises(ValueError, match="finite"):
        validate(broken)


def test_a_cheap_number_that_is_nan_does_not_agree(x64, monkeypatch):
    original = lnpjax.decomposition.LNPMeasure.__call__
    monkeypatch.setattr(
        lnpjax.decomposition.LNPMeasure,
        "__call__",
        lambda *a, **k: jax.tree.map(lambda leaf: leaf * jnp.nan, original(*a, **k)),
    )
    findings = by_name(validate(subject_of("mlp")))
    assert not findings["chi_pos"].agrees
    assert findings["effective rank"].agrees


def test_chosen_outputs_are_the_frequent_targets():
    targets = np.array([[5, 5, 3, 7], [3, 5, 7, 9]])
    positions, vocabulary = OutputSpace(2, num_vocabulary=3, num_positions=2).chosen(targets, 12)
    assert positions.tolist() == [0, 3]
    assert vocabulary.tolist() == [3, 5, 7]
    with pytest.raises(ValueError, match="num_vocabulary: expected an integer >= 1, got 0"):
        OutputSpace(num_vocabulary=0).check()


@pytest.mark.parametrize("name", ["cnn", "llama-tied"])
def test_small_networks_learn(name):
    pair = small_network(name, steps=30, space=OutputSpace(2, 4, 3))

    def loss(subject):
        inputs, targets = subject.batch_a
        return float(subject.loss_fn(subject.apply_fn(subject.params, inputs), targets))

    assert loss(pair.after) < loss(pair.before)
    assert pair.label == "after 30 steps"


def test_command_prints_saves_and_draws(tmp_path, capsys):
    arguments = ["validate", "--steps", "20", "--num-samples", "3", "--neural-tangents", "skip"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "mlp, after 20 steps (double precision)" in out
    assert "DIFFERS" not in out
    assert out.count("agrees") == 28
    folder = tmp_path / "validation" / "mlp-1"
    findings = json.loads((folder / "findings.json").read_text())
    assert [row["agrees"] for rows in findings.values() for row in rows] == [True] * 28
    spectra = np.load(folder / "spectra.npz")
    assert spectra["initialisation/p"].shape == (30,)
    np.testing.assert_allclose(spectra["after 20 steps/gamma2"].sum(), 1, rtol=1e-9)
    assert {path.name for path in folder.glob("*.png")} == {"eigenmodes.png", "steps.png"}
    assert not jax.config.jax_enable_x64


def test_command_fails_where_something_differs(monkeypatch, capsys):
    original = lnpjax.kernel.mode_pairs
    monkeypatch.setattr(_validate, "mode_pairs", lambda *a: 1.5 * original(*a))
    arguments = ["validate", "--steps", "1", "--num-samples", "2", "--neural-tangents", "skip"]
    assert cli.main(arguments) == Exit.DISAGREES
    assert "DIFFERS" in capsys.readouterr().out


def test_a_run_before_and_after(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, "run")
    options = ["--num-positions", "3", "--num-vocabulary", "5"]
    assert cli.main(["validate", "--run", "run", *options]) == 0
    assert "run, after 12 steps" in capsys.readouterr().out
    assert (tmp_path / "run" / "validation" / "eigenmodes.png").exists()
    _, pair = run_checkpoint("run", space=OutputSpace(1, 5, 3))
    differences = jax.tree.map(
        lambda a, b: jnp.max(jnp.abs(a - b)), pair.before.params, pair.after.params
    )
    assert all(difference > 0 for difference in jax.tree.leaves(differences))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "-1"], "--steps: expected an integer >= 0, got -1"),
        (["--checkpoint", "3"], "--checkpoint: expected --run RUN with it"),
        (["--num-samples", "0"], "num_samples: expected an integer >= 1, got 0"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_end_in_one_line(options, message, capsys):
    assert cli.main(["validate", "--neural-tangents", "skip", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
