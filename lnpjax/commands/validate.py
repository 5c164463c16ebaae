"""`lnpjax validate`."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from lnpjax._base.checks import check_count, require
from lnpjax._base.reporting import Reporter
from lnpjax.commands._exit import Exit
from lnpjax.commands._files import refuse_unused
from lnpjax.commands._show import console, shown, table
from lnpjax.kernel import Backend
from lnpjax.kernel._neural_tangents import import_neural_tangents
from lnpjax.plotting import plot_mode_steps, plot_modes
from lnpjax.runs import Run, terminal_reporter
from lnpjax.runs._lock import refuse_links_in
from lnpjax.validation import (
    ModelName,
    OutputSpace,
    Pair,
    Validation,
    run_checkpoint,
    small_network,
    validate,
)

CLASSES = 10
MOST_ROWS = 20_480  # of an explicit kernel: 3.4 GB in double precision
HEADINGS = {"jax": "jax", "neural_tangents": "nt"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validate:
    """Check every cheap number against the explicit eNTK, on a small network.

    The cheap measurement (LNP components from gradients) is compared with the eigenmodes of the
    explicit kernel, computed by this library and by neural-tangents, before and after training:
    one row per quantity, with the largest relative difference and a verdict. The exit status is 4
    if anything disagrees. The spectra are saved, and drawn as in Fig. 12 of the Spectral Reach
    paper, together with how well the modes predict real gradient steps.

    Args:
        model: What to check.
            - mlp, cnn: on scikit-learn's digits, all 10 outputs.
            - llama, llama-tied: a small Llama on bytes of source code, with some of its outputs.
        run: Check the last checkpoint of this run instead, and its initialisation.
        checkpoint: Another checkpoint of that run, by its step.
        steps: Steps of training between the two states of --model.
        num_samples: Samples in each batch. None: 8, or 2 for a language model.
        num_vocabulary: Vocabulary entries of a language model that are kept: the most frequent.
        num_positions: Positions of a language model that are kept, evenly spread.
        precision: Floating-point precision of everything, the network included.
        neural_tangents: Whether neural-tangents gives a second opinion: auto uses it if it is
            installed.
        out: A folder for the results. None: validation/MODEL-N with the first free N, or the run.
    """

    model: ModelName = "mlp"
    run: str | None = None
    checkpoint: int | None = None
    steps: int = 200
    num_samples: int | None = None
    num_vocabulary: int = 40
    num_positions: int = 16
    precision: Literal["double", "single"] = "double"
    neural_tangents: Literal["auto", "require", "skip"] = "auto"
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        self._check()
        reporter = terminal_reporter()
        backends = self._backends(reporter)
        with jax.enable_x64(self.precision == "double"):
            run, name, pair = self._networks()
            outcomes = {}
            for label, subject in (("initialisation", pair.before), (pair.label, pair.after)):
                reporter.note(f"{name}, {label}: computing the kernels")
                outcomes[label] = validate(subject, backends=backends)
        for label, outcome in outcomes.items():
            _print_tables(f"{name}, {label} ({self.precision} precision)", outcome, backends)
        folder = self._folder(run)
        _save(outcomes, folder, name)
        print(f"results {shown(folder)}")
        return Exit.DONE if all(outcome.agrees for outcome in outcomes.values()) else Exit.DISAGREES

    def _check(self) -> None:
        check_count("--steps", self.steps, least=0)
        if self.run is not None:
            refuse_unused(self, "--model alone", "model", "steps")
        elif self.model in ("mlp", "cnn"):
            refuse_unused(self, "a language model", "num_vocabulary", "num_positions")
        require(
            self.checkpoint is None or self.run is not None,
            "--checkpoint",
            expected="--run RUN with it",
            got="--model",
        )

    def _backends(self, reporter: Reporter) -> list[Backend]:
        if self.neural_tangents == "skip":
            return ["jax"]
        try:
            import_neural_tangents()
        except ImportError as error:
            if self.neural_tangents == "require":
                raise
            reporter.note(f"without a second opinion: {error}")
            return ["jax"]
        return ["jax", "neural_tangents"]

    def _networks(self) -> tuple[Run | None, str, Pair]:
        usual = 8 if self.run is None and self.model in ("mlp", "cnn") else 2
        space = OutputSpace(
            usual if self.num_samples is None else self.num_samples,
            self.num_vocabulary,
            self.num_positions,
        )
        is_classifier = self.run is None and self.model in ("mlp", "cnn")
        outputs = CLASSES if is_classifier else self.num_vocabulary * self.num_positions
        rows = space.num_samples * outputs
        expected = f"at most {MOST_ROWS // max(outputs, 1)} of {outputs} outputs each"
        got = f"{space.num_samples} (kernels would have {rows:,} rows, {8 * rows**2:,} bytes each)"
        require(rows <= MOST_ROWS, "num_samples", expected=expected, got=got)
        if self.run is None:
            return None, self.model, small_network(self.model, steps=self.steps, space=space)
        run, pair = run_checkpoint(self.run, step=self.checkpoint, space=space)
        return run, run.path.name, pair

    def _folder(self, run: Run | None) -> Path:
        """Make a new folder; for a run, `validation` within it, where new results replace old."""
        if self.out is not None:
            folder = Path(self.out)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        if run is not None:
            folder = run.path / "validation"
            refuse_links_in(folder)
            folder.mkdir(exist_ok=True)
            return folder
        for number in itertools.count(1):
            folder = Path("validation") / f"{self.model}-{number}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
        raise AssertionError("unreachable: there is always another number")


def _print_tables(title: str, outcome: Validation, backends: Sequence[Backend]) -> None:
    screen = console()
    headings = ("", "cheap", *(HEADINGS[name] for name in backends), "off by", "")
    findings = table(title, headings, no_wrap=True)
    for finding in outcome.findings:
        exact = [finding.exact.get(backend) for backend in backends]
        cheap = "" if finding.cheap is None else _short(finding.cheap)
        numbers = [cheap, *("" if number is None else _short(number) for number in exact)]
        verdict = "agrees" if finding.agrees else "DIFFERS"
        findings.add_row(finding.quantity, *numbers, f"{finding.difference:.0e}", verdict)
    legend = (
        "cheap: from gradients alone\n"
        "jax: from the explicit kernel"
        + ("; nt: the same by neural-tangents\n" if len(backends) > 1 else "\n")
        + "off by: largest difference, relative to the size of the quantity\n"
        "across A, B: a step on batch A, seen on batch B\n"
    )
    screen.print(findings)
    screen.print(legend, style="dim", highlight=False)
    steps = table(
        "gradient steps along the chosen outputs' part of the gradient",
        ("", "predicted fall", "fall (all outputs)", "outputs off by"),
        no_wrap=True,
    )
    predicted = -np.sum(np.asarray(outcome.steps.predicted_loss_change), axis=1)
    actual, errors = -np.asarray(outcome.steps.loss_change), np.asarray(outcome.steps.disagreement)
    for fall, truth, error in zip(predicted, actual, errors, strict=True):
        share = f"{fall / abs(outcome.loss):.0e} of the loss"
        steps.add_row(share, _short(fall), _short(truth), f"{error:.0e}")
    screen.print(steps)


def _short(number: float) -> str:
    return f"{number:.4g}".replace("e+0", "e").replace("e-0", "e-")


def _save(outcomes: dict[str, Validation], folder: Path, name: str) -> None:
    """Write `findings.json`, `spectra.npz`, and two figures."""
    findings = {
        label: [finding._asdict() | {"agrees": finding.agrees} for finding in outcome.findings]
        for label, outcome in outcomes.items()
    }
    text = json.dumps(findings, indent=1).replace("NaN", "null")
    (folder / "findings.json").write_text(text + "\n")
    arrays: dict[str, Any] = {
        f"{label}/{column}": np.asarray(getattr(outcome.modes, column))
        for label, outcome in outcomes.items()
        for column in ("eigenvalues", "p", "gamma2", "projections", "degenerate")
    }
    np.savez_compressed(folder / "spectra.npz", **arrays)
    modes = {label: outcome.modes for label, outcome in outcomes.items()}
    plot_modes(modes, folder / "eigenmodes.png", title=name)
    steps = {label: outcome.steps for label, outcome in outcomes.items()}
    plot_mode_steps(steps, folder / "steps.png", title=name)
