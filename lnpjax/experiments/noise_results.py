"""The figures and the claims of the noise experiment (NTK Lens, Figs. 4 and 7)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments.claims import Claim, decide
from lnpjax.experiments.ntk_results import SET_NAMES
from lnpjax.experiments.sweep import Sweep
from lnpjax.plot_style import Panel, dress, new_figure, palette, saved
from lnpjax.rank_correlation import spearman

if TYPE_CHECKING:
    from lnpjax.experiments.noise_scaling import NoiseConfig

ORDERED = 0.8
CONVERGED = 0.95
LEAST_SHARES = 4


def curves(
    sweep: Sweep, column: str, **where: object
) -> tuple[Float[np.ndarray, " epochs"], Float[np.ndarray, "members epochs"]]:
    """A column over training, for the members of one network and share: epochs, and values."""
    rows = sweep.rows(**where)
    members = sorted({row["member"] for row in rows})
    epochs = [row["epoch"] for row in rows if row["member"] == members[0]]
    values = [[row[column] for row in rows if row["member"] == member] for member in members]
    return np.array(epochs, float), np.array(values)


def draw_noise_scaling(config: NoiseConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `figure_4_SET.png` and `figure_7_SET.png` for every set.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    colours = palette(len(config.replaced))
    for images, networks in _networks(sweep).items():
        figure = new_figure((11, 4.4))
        for ax, network in zip(figure.subplots(1, len(networks)), networks, strict=True):
            for colour, share in zip(colours, config.replaced, strict=True):
                where = {"set": images, "network": network, "replaced": share}
                epochs, ranks = curves(sweep, "rank", **where)
                label = f"{100 * share:g} % replaced"
                ax.plot(epochs, ranks.mean(0), color=colour, marker="o", markersize=3, label=label)
                spread = ranks.std(0) / len(ranks) ** 0.5
                ax.fill_between(
                    epochs, ranks.mean(0) - spread, ranks.mean(0) + spread, color=colour,
                    alpha=0.15, linewidth=0,
                )  # fmt: skip
            panel = Panel(
                "rank",
                network.capitalize(),
                "kernel of normalised gradients on test images; shaded: standard error",
                r"effective rank $\Gamma(\Theta)$",
            )
            dress(ax, panel, xlabel="epoch", xscale="symlog", yscale="linear")
            ax.set_xlim(left=0)
        figure.axes[0].legend(frameon=False, fontsize=8)
        figure.suptitle(
            f"Effective rank where classes have less to learn: {SET_NAMES[images]}, 4 classes",
            fontweight="bold",
        )
        saved(figure, folder / f"figure_4_{images}.png")
        _draw_accuracies(config, sweep, images, networks, folder / f"figure_7_{images}.png")


def _draw_accuracies(
    config: NoiseConfig, sweep: Sweep, images: str, networks: list[str], path: Path
) -> None:
    figure = new_figure((11, 7.5))
    axes = figure.subplots(2, len(networks), sharex=True, sharey="row")
    for row, (column, what) in zip(
        axes, (("train_accuracy", "training"), ("test_accuracy", "test")), strict=True
    ):
        for ax, network in zip(row, networks, strict=True):
            for colour, share in zip(palette(len(config.replaced)), config.replaced, strict=True):
                where = {"set": images, "network": network, "replaced": share}
                epochs, values = curves(sweep, column, **where)
                label = f"{100 * share:g} % replaced"
                ax.plot(epochs, values.mean(0), color=colour, label=label)
            caption = f"mean over {len(values)} networks"
            panel = Panel(column, f"{network.capitalize()}: {what}", caption, f"{what} accuracy")
            dress(ax, panel, xlabel="epoch", xscale="symlog", yscale="linear")
            ax.set_xlim(left=0)
    axes[0, 0].legend(frameon=False, fontsize=8)
    title = f"Accuracy where classes have less to learn: {SET_NAMES[images]}, 4 classes"
    figure.suptitle(title, fontweight="bold")
    saved(figure, path)


def _networks(sweep: Sweep) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in sweep.rows():
        names = found.setdefault(row["set"], [])
        if row["network"] not in names:
            names.append(row["network"])
    return found


def judge_noise_scaling(config: NoiseConfig, sweep: Sweep) -> list[Claim]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    pairs = [(images, network) for images, names in _networks(sweep).items() for network in names]
    enough = len(config.replaced) >= LEAST_SHARES
    kept = 1 - np.array(config.replaced)
    names, two_stages, rises, finals, accuracies = [], [], [], [], []
    for images, network in pairs:
        names.append(f"{SET_NAMES[images]}, {network}")
        by_share = [{"set": images, "network": network, "replaced": s} for s in config.replaced]
        ranks = [curves(sweep, "rank", **where)[1].mean(0) for where in by_share]
        first, lowest, last = ranks[0][0], ranks[0].min(), ranks[0][-1]
        two_stages.append((first, lowest, last))
        rises.append(np.array([values[-1] / values.min() for values in ranks]))
        finals.append([curves(sweep, "train_accuracy", **w)[1].mean(0)[-1] for w in by_share])
        accuracies.append([curves(sweep, "test_accuracy", **w)[1].mean(0)[-1] for w in by_share])
    orders = [spearman(kept, rise).rho for rise in rises]
    losses = [spearman(kept, np.array(values)).rho for values in accuracies]
    rule = f"; cannot tell with fewer than {LEAST_SHARES} shares"

    def listed(values: list[str]) -> str:
        return "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))

    return [
        Claim(
            source="Fig. 4",
            statement="The effective rank falls at first, then rises again.",
            measured=listed([f"{a:.1f}, {b:.1f}, {c:.1f}" for a, b, c in two_stages]),
            verdict=decide(
                all(low < first and last > 1.05 * low for first, low, last in two_stages)
            ),
            rule="of the networks with nothing replaced, at the start, at its lowest, and at the "
            "end: holds if the lowest is below the first and 5 % below the last, for both networks",
        ),
        Claim(
            source="Fig. 4",
            statement="The more features the data has, the further the effective rank rises.",
            measured=listed(
                [
                    f"rho = {order:.2f} (" + ", ".join(f"{rise:.2f}" for rise in found) + ")"
                    for order, found in zip(orders, rises, strict=True)
                ]
            ),
            verdict=decide(all(order >= ORDERED for order in orders), known=enough),
            rule="holds if Spearman's rho of the share that is kept and the rise (last over "
            f"lowest) is at least {ORDERED} for both networks" + rule,
        ),
        Claim(
            source="Fig. 7",
            statement="All networks are trained until they converge.",
            measured=listed([f"training accuracy {min(values):.3f} at least" for values in finals]),
            verdict=decide(min(min(values) for values in finals) >= CONVERGED),
            rule=f"holds if the mean training accuracy at the end is at least {CONVERGED} for all",
        ),
        Claim(
            source="Fig. 7",
            statement="Performance falls as more is replaced.",
            measured=listed(
                [
                    f"rho = {loss:.2f} (" + ", ".join(f"{value:.3f}" for value in found) + ")"
                    for loss, found in zip(losses, accuracies, strict=True)
                ]
            ),
            verdict=decide(all(loss >= ORDERED for loss in losses), known=enough),
            rule="holds if Spearman's rho of the share that is kept and the test accuracy at the "
            f"end is at least {ORDERED} for both networks" + rule,
        ),
    ]
