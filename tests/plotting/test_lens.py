"""The figures of spectra show the rows and the stored arrays, and leave gaps for what is not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from lens_runs import LAYERS, TAIL, TARGET, WIDTH, config, make_run
from pictures import is_whole_png

from lnpjax.comparison import ComparisonOptions, compare
from lnpjax.plotting import plot_comparison, plot_lens
from lnpjax.plotting._lens import brief, plot_spectrum
from lnpjax.plotting._style import new_figure
from lnpjax.runs import read_run
from lnpjax.status import Status, describe_status


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    return [
        make_run(folder / f"b{batch}", tokens_to_target=tokens, end=40_000, alpha=alpha,
                 options=config(batch), undefined=((2, LAYERS[-1]),) if batch == 8 else ())
        for batch, tokens, alpha in ((4, 20_000, 1.2), (8, 10_000, 1.0), (16, 30_000, 1.4))
    ]  # fmt: skip


def panels(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def curve(ax, label):
    (line,) = (line for line in ax.get_lines() if str(line.get_label()).startswith(label))
    return line


def words(figure):
    return figure.get_supxlabel()


def test_the_drawn_tail_is_the_fit_of_what_rounding_left(family):
    """Ranks beyond 8 are a floor of noise, which the fit left out; so does the line."""
    (axes,) = new_figure((4, 3)).subplots(1, 1, squeeze=False)[0]
    first, measured = TAIL[0], family[0]
    spectra = read_run(measured).spectra[0]
    name = LAYERS[-1]
    eigenvalues = np.maximum(np.arange(1, WIDTH + 1.0) ** -6, (first + 4.0) ** -6)
    numbers = dict(spectra.summaries["activations"][name]) | {
        "alpha_tail": 6.0,
        "alpha_tail_points": 5,
    }
    spectra = dataclasses.replace(
        spectra,
        summaries={"activations": {name: numbers}},
        arrays={**spectra.arrays, f"activations/{name}": eigenvalues},
    )
    plot_spectrum(axes, spectra, "activations", "k", "all")
    x, y = next(line for line in axes.get_lines() if line.get_linestyle() == "--").get_data()
    np.testing.assert_allclose(y, x**-6 / eigenvalues.sum(), rtol=1e-10)


def test_the_figure_of_one_run(family, tmp_path):
    figure = plot_lens(family[1], tmp_path / "lens.png")
    assert is_whole_png(tmp_path / "lens.png")
    found = panels(figure)
    labels = {title: (ax.get_xlabel(), ax.get_ylabel()) for title, ax in found.items()}
    assert labels == {
        "Activation spectrum": ("rank of the mode", "share of the variance"),
        "Modes that matter": ("training tokens", "RankMe (modes)"),
        "How fast the activations' spectrum falls": ("training tokens", r"exponent $\alpha$"),
        "Spectrum of per-sample gradients": ("rank of the mode", "share of the squared gradients"),
        "Modes by layer": ("training tokens", "RankMe (modes)"),
        "How fast the gradients' spectrum falls": ("training tokens", r"exponent $\alpha$"),
    }

    spectra = found["Activation spectrum"]
    shares = curve(spectra, "512 tokens").get_ydata()
    ranks = np.arange(1, WIDTH + 1.0)
    np.testing.assert_allclose(shares, 1 / ranks / np.sum(1 / ranks))
    tail = next(line for line in spectra.get_lines() if line.get_linestyle() == "--")
    x, y = tail.get_data()
    assert x[0] < TAIL[0] < TAIL[1] < x[-1]
    np.testing.assert_allclose(y, 1 / x / np.sum(1 / ranks))  # the fit of an exact power law
    rank = curve(found["Modes that matter"], "activations").get_ydata()
    np.testing.assert_array_equal(rank, 20 + np.arange(9))
    by_layer = found["Modes by layer"]
    np.testing.assert_array_equal(curve(by_layer, LAYERS[0]).get_ydata(), 10 + np.arange(9))


def test_what_is_undefined_leaves_a_gap_and_is_explained(family):
    figure = plot_lens(family[1])
    exponents = panels(figure)["How fast the activations' spectrum falls"]
    values = curve(exponents, "tail").get_ydata()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(values)), [2])
    assert "1 of the summaries" in words(figure)
    assert describe_status(Status.TOO_FEW_POINTS) in words(figure)
    assert words(plot_lens(family[0])) == "no number is undefined"


def test_a_run_without_gradients_or_arrays_or_spectra(family):
    whole = read_run(family[0])
    bare = dataclasses.replace(
        whole,
        spectra=tuple(
            dataclasses.replace(
                one, arrays={}, summaries={"activations": one.summaries["activations"]}
            )
            for one in whole.spectra
        ),
    )
    found = panels(plot_lens(bare))
    assert not found["Activation spectrum"].get_lines()
    gradients = found["How fast the gradients' spectrum falls"]
    assert [text.get_text() for text in gradients.texts][-1] == "not recorded"
    with pytest.raises(ValueError, match=r"lnpjax train --spectra N\), got none in b4"):
        plot_lens(dataclasses.replace(whole, spectra=()))


def test_the_figure_of_several_runs(family):
    comparison = compare([read_run(run) for run in family], ComparisonOptions(target=TARGET))
    figure = plot_comparison(comparison)
    found = panels(figure)
    assert list(found) == [
        "Validation loss",
        "Activation spectrum",
        "Spectrum of per-sample gradients",
        "What each change brought",
        "Early tail and token efficiency",
        "When the tail predicts efficiency",
        "Which layer predicts efficiency",
    ]
    points = curve(found["What each change brought"], "1: b4").get_xydata()
    np.testing.assert_allclose(points, [[math.log(2), 0]], rtol=1e-3, atol=1e-9)
    early = curve(found["Early tail and token efficiency"], "family A")
    np.testing.assert_allclose(early.get_xdata(), [0.5, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(early.get_ydata(), [2, 1, 3], rtol=1e-3)
    rho = curve(found["When the tail predicts efficiency"], "A, ranks 11").get_ydata()
    np.testing.assert_allclose(rho[1:], 1)  # 5 % of the way is before the first spectra
    assert math.isnan(rho[0])
    layers = curve(found["Which layer predicts efficiency"], "family A")
    np.testing.assert_allclose(layers.get_ydata(), 1)
    assert words(figure) == ""


def test_panels_without_data_are_left_out(tmp_path):
    runs = [
        make_run(tmp_path / name, tokens_to_target=tokens, end=20_000, spectra=0, speed=speed)
        for name, tokens, speed in (("a", 10_000, 1e4), ("b", 15_000, None))
    ]
    summaries = [read_run(run) for run in runs]
    figure = plot_comparison(compare(summaries, ComparisonOptions(target=2.9)))
    assert list(panels(figure)) == ["Validation loss"]
    assert "the target is never reached by b" in words(figure)
    assert "no spectra" in words(figure)


def test_brief():
    assert [brief(n) for n in (7.0, 1234, 9.87e6, 2e9, 3e12)] == ["7", "1.23K", "9.87M", "2B", "3T"]
