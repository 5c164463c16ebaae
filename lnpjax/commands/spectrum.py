"""`lnpjax spectrum`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import check_count, require
from lnpjax._base.files import write_atomically
from lnpjax.commands._models import DataChoice, open_network, results_of
from lnpjax.commands._show import console, shown, table
from lnpjax.plotting import plot_shell_profile, plot_shell_profiles
from lnpjax.pretraining import cross_entropy
from lnpjax.pretraining.config import LARGEST_SEED
from lnpjax.runs import terminal_reporter
from lnpjax.runs._lines import json_lines
from lnpjax.runs._lock import refuse_links_in
from lnpjax.shells import (
    Profile,
    ProfileOptions,
    frontier_displacement,
    measure_states,
    profiles_of,
)
from lnpjax.shells._profiles import (
    DOUBTS,
    StateSpectra,
    jackknife_sem,
    profile_arrays,
    slope_in_doubt,
    with_error,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Show in which spectral shells a language model's error lies, and from which it learns.

    Lanczos starts from the error (each token's surprisal) and from the loss gradient, so the kernel
    is never formed. For every checkpoint, the command computes the energy of the error in
    logarithmic shells of eigenvalues, its peak and cut-off, and the distribution of learning, whose
    mean is chi_pos. Energies are means over batches. It prints one row per checkpoint, and how far
    the frontier moved in between; figures and numbers (shells.npz, and as rows in shells.jsonl) go
    to RUN/shells.

    Args:
        models: Run folders, or trained models as lnpjax inspect takes them. Of a single run, its
            initialisation and the checkpoints that it has kept; of several, the last one of each.
        data: The text or tokens to measure on: a name or path, as lnpjax train takes it. None: the
            data of a run.
        tokenizer: The tokenizer for that text: a JSON file, or the .bin of llama2.c. None: the
            model's own, or bytes.
        num_batches: Batches that are averaged over (the paper: 50).
        batch_size: Sequences in each batch.
        context_length: Tokens per sequence of that text. None: 128, or as many as the model takes.
        num_matvecs: Products with the kernel for each batch and start vector.
        ratio: Ratio of one shell's lower edge to that of the shell below it.
        decades: How many factors of ten below the largest eigenvalue the shells reach.
        per_token: Divide eigenvalues and energies by the number of tokens of a batch, so that
            context lengths and batch sizes can be compared.
        seed: Seed of the random probes.
        revisions: States of one model to compare, in the order of training: revisions on the hub,
            or folders within that of the model.
        out: A folder for the results. None: RUN/shells, or spectrum/NAME.
    """

    models: tuple[str, ...]
    data: str | None = None
    tokenizer: str | None = None
    num_batches: int = 4
    batch_size: int = 4
    context_length: int | None = None
    num_matvecs: int = 32
    ratio: float = 2.0
    decades: float = 4.0
    per_token: bool = False
    seed: int = 0
    revisions: tuple[str, ...] = ()
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        options = ProfileOptions(self.num_matvecs, self.ratio, self.decades, self.per_token)
        options.check()
        require(bool(self.models), "MODEL", expected="a run folder or a trained model", got="none")
        choice = self._choice()
        in_range = 0 <= self.seed <= LARGEST_SEED
        require(in_range, "--seed", expected=f"0 to {LARGEST_SEED}", got=self.seed)
        alone = len(self.models) == 1
        require(alone or not self.revisions, "--revisions", expected="one MODEL with it",
                got=f"{len(self.models)}")  # fmt: skip
        networks = [
            open_network(model, choice, every=alone, revisions=self.revisions)
            for model in self.models
        ]
        measured: dict[str, StateSpectra] = {}
        for network in networks:
            measured |= measure_states(
                network.apply_fn,
                cross_entropy,
                network.states,
                network.batches,
                options,
                key=jax.random.key(self.seed),
                report=terminal_reporter().note,
            )
        profiles = profiles_of(measured, options)
        name = " and ".join(network.name for network in networks)
        folder = Path("spectrum") / "comparison"
        if alone:
            folder = results_of(networks[0], in_run="shells", elsewhere="spectrum")
        if self.out is None:
            refuse_links_in(folder)  # of a run, which may be a stranger's
        else:
            folder = Path(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        _save(profiles, folder, moved=alone)
        title = f"{name}, per token" if self.per_token else name
        plot_shell_profile(profiles[-1], folder / "profile.png", title=title)
        plot_shell_profiles(profiles, folder / "profiles.png", title=title)
        _print_tables(name, profiles, moved=alone)
        print(f"results {shown(folder)}")
        return 0

    def _choice(self) -> DataChoice:
        for name in ("num_batches", "batch_size", "context_length"):
            optional = name == "context_length"
            option = f"--{name.replace('_', '-')}"
            check_count(option, getattr(self, name), optional=optional)
        return DataChoice(
            data=self.data,
            tokenizer=self.tokenizer,
            num_batches=self.num_batches,
            batch_size=self.batch_size,
            context_length=self.context_length,
        )


_MOVED = ("peak", "cutoff", "rate", "amplitude")  # of a frontier, in the order of the table


def _save(profiles: list[Profile], folder: Path, *, moved: bool) -> None:
    arrays: dict[str, Any] = {}
    for profile in profiles:
        arrays |= {
            f"{profile.label}/{name}": np.asarray(value)
            for name, value in profile_arrays(profile).items()
        }
    for label, numbers in _displacements(profiles if moved else []).items():
        for name, (value, sem) in numbers.items():
            arrays[f"{label}/displacement_{name}"] = np.asarray(value)
            arrays[f"{label}/displacement_{name}_sem"] = np.asarray(sem)
    np.savez_compressed(folder / "shells.npz", allow_pickle=False, **arrays)
    rows = [row for profile in profiles for row in _rows(profile)]
    write_atomically(folder / "shells.jsonl", json_lines(rows))


def _rows(profile: Profile) -> Iterator[dict[str, Any]]:
    """Return what a table holds: a row for the frontier, and one for each shell."""
    arrays = {name: np.asarray(value) for name, value in profile_arrays(profile).items()}
    of_shells = [name for name, a in arrays.items() if a.shape == profile.centers.shape]
    scalars = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
    yield {"kind": "frontier", "label": profile.label, **scalars}
    for shell in range(len(profile.centers)):
        values = {name: arrays[name][shell].item() for name in of_shells}
        yield {"kind": "shell", "label": profile.label, "shell": shell, **values}


def _print_tables(name: str, profiles: list[Profile], *, moved: bool) -> None:
    screen = console()
    note = functools.partial(screen.print, style="dim", highlight=False)
    screen.print(_frontier_table(name, profiles))
    note(
        "+-: standard error over batches\n"
        "peak, cut-off: eigenvalues where the error's energy per shell is largest, and where it "
        "falls to 1 % of that\nslope: of the energy below the peak, in logarithms\n"
        f"?: {DOUBTS}\n"
        "unresolved: share of the energy at nodes of Lanczos that are not eigenvalues yet\n"
        "half: change of the peak, and of the shell that changes most, from half the products"
    )
    if moved and len(profiles) > 1:
        screen.print(_displacement_table(_displacements(profiles)))
        note(
            "ln of the ratio to the row above, on the same batches; amplitude: of the energy below "
            "the peaks"
        )
    screen.print(_learning_table(profiles))
    note(
        "p: strength of the eigenmodes that the loss gradient lies along (share of the trace); "
        "chi_pos is its mean"
    )


def _frontier_table(name: str, profiles: list[Profile]) -> Any:
    headings = ("", "peak", "cut-off", "slope", "unresolved", "half")
    rows = table(name, headings)
    for profile in profiles:
        frontier, quality = profile.frontier, profile.convergence
        cutoff = _percent(frontier.cutoff, profile.sem("cutoff"), missing="beyond")
        doubt = "?" if slope_in_doubt(profile) else ""
        rows.add_row(
            profile.label,
            _percent(frontier.peak, profile.sem("peak")),
            cutoff,
            with_error(frontier.exponent, profile.sem("exponent")) + doubt,
            "-" if quality is None else f"{quality.unresolved:.0%}",
            "-"
            if quality is None
            else f"{quality.peak_change:.0%}, {quality.shell_change:.0%}".replace("nan%", "-"),
        )
    return rows


def _percent(value: Float[Array, ""], sem: float, *, missing: str = "-") -> str:
    if not math.isfinite(float(value)):
        return missing
    return f"{float(value):.2g}" + (f" +- {sem / float(value):.0%}" if math.isfinite(sem) else "")


def _displacements(profiles: list[Profile]) -> dict[str, dict[str, tuple[Array, float]]]:
    """Return how far the frontier moved to every state from the one before, with errors."""
    moved: dict[str, dict[str, tuple[Array, float]]] = {}
    for before, after in itertools.pairwise(profiles):
        whole = frontier_displacement(before.frontier, after.frontier)
        without = None
        if before.leave_one_out is not None and after.leave_one_out is not None:
            without = frontier_displacement(before.leave_one_out, after.leave_one_out)
        moved[after.label] = {
            name: (
                getattr(whole, name),
                math.nan if without is None else float(jackknife_sem(getattr(without, name))),
            )
            for name in _MOVED
        }
    return moved


def _displacement_table(moved: dict[str, dict[str, tuple[Array, float]]]) -> Any:
    rows = table("displacement", ("", "peak", "cut-off", "rate", "amplitude"))
    for label, numbers in moved.items():
        rows.add_row(label, *(with_error(*numbers[name]) for name in _MOVED))
    return rows


def _learning_table(profiles: list[Profile]) -> Any:
    rows = table("learning", ("", "loss", "chi_pos", "median p", "10 %", "90 %"))
    for profile in profiles:
        position = profile.position
        assert position is not None  # it was asked for
        low, high = (
            float(jnp.exp(jnp.mean(jnp.log(values))))
            for values in (position.tenth, position.ninetieth)
        )
        values = (jnp.mean(position.chi_pos), profile.median, low, high)
        loss = f"{float(jnp.mean(position.loss)):.3g}"
        rows.add_row(profile.label, loss, *(f"{float(p):.1e}" for p in values))
    return rows
