"""Figures of modes say what they show."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from pictures import is_whole_png

from lnpjax import eigenmodes, entk
from lnpjax.kernel import step_along_gradient
from lnpjax.plotting import plot_mode_steps, plot_modes


@pytest.fixture(scope="module")
def modes_and_steps():
    case = zoo.build("mlp")
    inputs, targets = case.batch_a
    rates = jnp.array([1e-3, 1e-2, 1e3])

    @jax.jit
    def both(params):
        gradient = jax.grad(case.loss_fn)(case.apply_fn(params, inputs), targets)
        modes = eigenmodes(entk(case.apply_fn, params, inputs), gradient)
        return modes, step_along_gradient(
            case.apply_fn, case.loss_fn, params, case.batch_a, modes, learning_rates=rates
        )

    return both(case.params)


def check_words(figure, panels):
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes] == panels
    assert all(ax.get_title(loc="left") for ax in figure.axes)
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_modes(modes_and_steps, tmp_path):
    modes, _ = modes_and_steps
    figure = plot_modes({"start": modes, "end": modes}, tmp_path / "modes.png", title="a network")
    rank = "mode $k$, by falling eigenvalue"
    quantities = ("$p_k$", r"$\gamma_k^2$", r"$\gamma_k^2 p_k$")
    legend = check_words(figure, [(rank, f"{quantity} (dimensionless)") for quantity in quantities])
    position = rf"$\chi_\mathrm{{pos}}$ = {float(modes.chi_pos):.3g}"
    assert legend == [f"start: {position}", f"end: {position}"]
    assert figure.get_suptitle() == "Eigenmodes of the eNTK: a network"
    styles = [line.get_linestyle() for line in figure.axes[0].lines if line.get_label()[0] != "_"]
    assert styles == ["--", "-"]
    dots, _ = (line for line in figure.axes[2].lines[:2])
    np.testing.assert_allclose(dots.get_ydata(), modes.contributions, rtol=1e-6)
    assert is_whole_png(tmp_path / "modes.png")


def test_modes_that_are_rounding_are_not_drawn():
    flat = eigenmodes(jnp.diag(jnp.array([2.0, 1.0, 0.0, -1e-9])), jnp.ones(4))
    figure = plot_modes({"start": flat})
    assert len(figure.axes[0].lines[0].get_ydata()) == 2


def test_steps(modes_and_steps, tmp_path):
    _, steps = modes_and_steps
    figure = plot_mode_steps({"start": steps}, tmp_path / "steps.png")
    predicted, unit = "predicted fall of the loss", "(units of the loss)"
    ylabels = ("relative disagreement", f"actual fall of the loss {unit}")
    legend = check_words(figure, [(f"{predicted} {unit}", ylabel) for ylabel in ylabels])
    assert legend == ["start"]
    assert is_whole_png(tmp_path / "steps.png")
    falls = figure.axes[1].lines[0].get_ydata()
    assert np.isfinite(falls[:2]).all()
    assert np.isnan(falls[2]), "a step far too large, after which the loss rose"


@pytest.mark.parametrize("plot", [plot_modes, plot_mode_steps])
def test_nothing_to_draw(plot):
    with pytest.raises(ValueError, match="states: expected at least one state, got none"):
        plot({})
