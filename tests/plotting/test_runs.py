"""What the figures show: averages against their closed forms, curves against the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from pictures import is_whole_png

from lnpjax.plotting import plot_components, plot_groups, plot_run
from lnpjax.plotting._runs import window_average
from lnpjax.runs import Run
from lnpjax.runs._rows import ROWS


def synthetic_rows(num_steps=120, sign=1.0):
    rows = []
    for step in range(num_steps):
        flops = 6e9 * (step + 1)
        rows.append({"kind": "train", "step": step, "flops": flops, "loss": 5 / (1 + 0.1 * step)})
        rows.append(
            {
                "kind": "lnp",
                "step": step,
                "window": step // 30,
                "flops": flops,
                "chi_loss": 1.0,
                "chi_net": 2.0 + step,
                "chi_pos": sign / (1 + step),
                "chi_net_sem": 0.1,
                "chi_pos_sem": 0.01 / (1 + step),
                "groups": {
                    "head": {"chi_net": 0.5 + 0.25 * step, "chi_pos": 0.1, "delta_loss": 1.0},
                    "layers": {"chi_net": 1.5 + 0.75 * step, "chi_pos": 0.2, "delta_loss": 1.0},
                },
            }
        )
    return rows


@pytest.fixture
def run(tmp_path):
    config = {
        "lnpjax_version": "0",
        "model": {},
        "num_parameters": 115_008,
        "data": {},
        "training": {},
    }
    with Run.create(tmp_path / "run", config) as run:
        for row in synthetic_rows():
            run.append(row)
    return Run.open(tmp_path / "run")


def shown_band(ax):
    """The ends of the band at the first point and at the last, which is a window's mean."""
    (band,) = ax.collections
    path = band.get_paths()[0].vertices
    ends = [path[path[:, 0] == x, 1] for x in (path[:, 0].min(), path[:, 0].max())]
    return [(end.min(), end.max()) for end in ends]


@pytest.mark.parametrize("df", [3.0, None])
def test_bands_are_intervals(df):
    """95 %, with the rows' degrees of freedom; of a window's mean more; none in older rows."""
    rows = [row if df is None else row | {"sem_df": df} for row in synthetic_rows()]
    figure = plot_components({"run": rows})
    first, last = shown_band(figure.axes[2])
    number = 30  # steps of the last window: n (f + 2) - 2 degrees of freedom
    dfs = (math.inf, math.inf) if df is None else (df, number * (df + 2) - 2)
    t_first, t_last = scipy.stats.t.ppf(0.975, dfs)
    mean = 2 + np.mean(np.arange(90, 120))
    relative = t_first * 0.1 / 2, t_last * 0.1 / np.sqrt(number) / mean
    for (low, high), value, error in zip((first, last), (2, mean), relative, strict=True):
        np.testing.assert_allclose([low, high], value * np.exp([-error, error]), rtol=1e-5)
    assert "95 % intervals" in " ".join(text.get_text() for text in figure.axes[2].texts)


def longest_curve(ax):
    return max(ax.get_lines(), key=lambda line: len(line.get_xdata()))


def test_window_average_shows_the_first_steps_singly_and_then_means():
    steps = np.array([0, 1, 2, 10, 11, 20])
    windows = np.array([0, 0, 0, 1, 1, 2])
    values = np.array([1.0, 2.0, 3.0, 4.0, math.nan, 6.0])
    at, means = window_average(steps, windows, values, singly=2)
    np.testing.assert_allclose(at, [0, 1, 2, 10.5, 20])
    np.testing.assert_allclose(means, [1, 2, 3, 4, 6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: window_average(np.arange(2), np.zeros(3), np.ones(2)), "values: expected"),
        (lambda: window_average(np.zeros(2), np.zeros(2), np.ones(2)), "steps: expected"),
        (lambda: plot_components({}), "runs: expected"),
        (lambda: plot_components({"empty": []}), "empty"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_panel_says_what_it_shows(run):
    figure = plot_components(run)
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "loss (nats)",
        r"$\chi_\mathrm{loss}$ (nats$^2$ per output$^2$)",
        r"$\chi_\mathrm{net}$ (output$^2$ per parameter$^2$)",
        r"$\chi_\mathrm{pos}$ (dimensionless)",
    ]
    for ax in figure.axes:
        assert ax.get_title(loc="left")
        assert ax.get_xlabel() == "training compute 6 N D (FLOPs)"
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert any(text.get_text() for text in ax.texts)  # the caption
    captions = [ax.texts[0].get_text() for ax in figure.axes[1:]]
    for caption, component in zip(captions, ("chi_loss", "chi_net", "chi_pos"), strict=True):
        field = ROWS["lnp"].field(component)
        assert caption.startswith(field.definition)
        assert caption.splitlines()[1] == field.reading
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["115K parameters"]


def test_curves_are_the_rows(run):
    """40 measured steps singly, then the remaining steps of each window."""
    chi_net = plot_components(run).axes[2]
    line = longest_curve(chi_net)
    assert len(line.get_xdata()) == 40 + 3  # what is left of window 1, and windows 2 and 3
    np.testing.assert_allclose(line.get_ydata()[:40], 2.0 + np.arange(40))
    np.testing.assert_allclose(line.get_ydata()[-1], 2.0 + np.mean(np.arange(90, 120)))
    np.testing.assert_allclose(line.get_xdata()[0], 6e9)


def test_negative_positions_stay_visible():
    figure = plot_components({"a": synthetic_rows(60, sign=-1.0)})
    drawn = [line for line in figure.axes[3].get_lines() if np.any(np.isfinite(line.get_ydata()))]
    sizes = np.concatenate([np.asarray(line.get_ydata()) for line in drawn])
    assert np.nanmax(sizes) == pytest.approx(1.0)


def test_runs_are_overlaid():
    figure = plot_components({"small": synthetic_rows(60), "large": synthetic_rows(60)})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]
    for ax in figure.axes:
        curves = [line for line in ax.get_lines() if line.get_label() in ("small", "large")]
        assert len({line.get_color() for line in curves}) == 2


def test_shares_of_the_groups_add_up(run):
    position, share = plot_groups(run).axes
    assert position.get_ylabel() == r"$\chi_\mathrm{pos}$ (dimensionless)"
    assert share.get_ylabel() == r"$\chi_\mathrm{net}$ of the group / of the network"
    curves = [line.get_ydata() for line in share.get_lines() if len(line.get_xdata()) > 2]
    np.testing.assert_allclose(sum(curves), 1.0)


def test_figures_land_in_the_run(run):
    path = plot_run(run)
    assert path == run.figure_path("components")
    drawn = {file.name for file in path.parent.iterdir()}
    assert drawn == {"components.png", "groups.png"}
    assert all(is_whole_png(path.parent / name) for name in drawn)
