"""`lnpjax inspect`."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from pathlib import Path
from typing import Any

import jax

from lnpjax._base.checks import check_count, require
from lnpjax.commands._exit import Exit
from lnpjax.commands._models import DataChoice, Network, at_revisions, open_network, results_of
from lnpjax.commands._show import console, courtesy, shown, table
from lnpjax.inspection import (
    PARTS,
    InspectionOptions,
    Outcome,
    Subject,
    inspect_into,
    tables_of,
)
from lnpjax.inspection._folder import REPORT_FILE
from lnpjax.inspection._reports import flags_in_words
from lnpjax.lens import nnx_hidden_states
from lnpjax.pretraining import cross_entropy
from lnpjax.pretraining.config import LARGEST_SEED
from lnpjax.runs import terminal_reporter
from lnpjax.runs._lock import refuse_links_in
from lnpjax.shells import ProfileOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect:
    """Look at a trained network: everything that can be measured of it, on one page.

    Measures the loss; the LNP components with their errors, by group and by layer, of a batch
    against itself and against another; the shells of the error and the distribution of learning
    over the spectrum; the spectral density of the kernel; the spectra of activations, of per-sample
    gradients and of weights. Prints tables, and writes inspect.json, inspect.npz, figures and
    report.html, a page that needs nothing else. Every part is written as soon as it is measured.

    Args:
        model: A run of lnpjax train, a folder of Hugging Face, a llama2.c .bin, a nanoGPT .pt, a
            model.json of TensorFlow.js, or hf:owner/name@revision.
        data: What to measure on. Text or tokens: a name or path, as lnpjax train takes it. Images:
            digits, an .npz file with x and y, or a folder with a folder of pictures for each class.
            None: the data of a run.
        tokenizer: The tokenizer for text: a JSON file, or the .bin of llama2.c. None: the
            model's own, or bytes.
        batch_size: Samples in each of the two batches.
        context_length: Tokens per sequence. None: 128, or as many as the model takes.
        pixel_mean: Subtracted from pixels, which are from 0 to 1.
        pixel_std: Pixels are then divided by this.
        num_matvecs: Products with the kernel for each batch or random vector.
        num_probes: Random vectors for the spectral density.
        parts: Only these parts. None: all of them.
        step: Which checkpoint of a run. None: the last.
        seed: Seed of the random probes.
        revisions: Inspect these revisions of the model, one after the other: on the hub, or folders
            within that of the model.
        out: A folder for the results. None: RUN/inspect, or inspect/NAME.
    """

    model: str
    data: str | None = None
    tokenizer: str | None = None
    batch_size: int = 16
    context_length: int | None = None
    pixel_mean: float = 0.0
    pixel_std: float = 1.0
    num_matvecs: int = 16
    num_probes: int = 3
    parts: tuple[str, ...] | None = None
    step: int | None = None
    seed: int = 0
    revisions: tuple[str, ...] = ()
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        options = self._checked()
        for source in at_revisions(self.model, self.revisions):
            self._inspect(source, options)
        return Exit.DONE

    def _inspect(self, source: str, options: InspectionOptions) -> None:
        network = open_network(source, self._choice(), step=self.step)
        folder = results_of(network, in_run="inspect", elsewhere="inspect")
        if self.out is None:
            refuse_links_in(folder)  # of a run, which may be a stranger's
        else:
            folder = Path(self.out) / (folder.name if self.revisions else "")
        outcomes = inspect_into(
            folder,
            _subject(network),
            network.about | {"Measured with": self._about()},
            options,
            key=jax.random.key(self.seed),
            parts=self.parts,
            report=terminal_reporter().note,
        )
        for outcome in outcomes:
            with courtesy():
                _print(outcome)
        with courtesy():
            print(f"report {shown((folder / REPORT_FILE).absolute())}")

    def _checked(self) -> InspectionOptions:
        for name in ("batch_size", "context_length"):
            optional = name == "context_length"
            option = f"--{name.replace('_', '-')}"
            check_count(option, getattr(self, name), optional=optional)
        expected = "a number > 0"
        require(self.pixel_std > 0, "--pixel-std", expected=expected, got=self.pixel_std)
        in_range = 0 <= self.seed <= LARGEST_SEED
        require(in_range, "--seed", expected=f"0 to {LARGEST_SEED}", got=self.seed)
        unknown = [name for name in self.parts or () if name not in PARTS]
        require(not unknown, "--parts", expected=f"some of {', '.join(PARTS)}", got=unknown)
        options = InspectionOptions(self.num_probes, ProfileOptions(num_matvecs=self.num_matvecs))
        options.check()
        return options

    def _choice(self) -> DataChoice:
        return DataChoice(
            data=self.data,
            tokenizer=self.tokenizer,
            batch_size=self.batch_size,
            context_length=self.context_length,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
        )

    def _command(self) -> str:
        """Return the command that measures the same again."""
        words = ["lnpjax", "inspect", self.model]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("model", "out") and value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def _about(self) -> dict[str, Any]:
        return {
            "command": self._command(),
            "products with the kernel": self.num_matvecs,
            "random vectors of the density": self.num_probes,
            "seed": self.seed,
        }


def _subject(network: Network) -> Subject:
    ((name, params_of),) = network.states.items()
    batch_a, batch_b = network.batches
    return Subject(
        name,
        network.apply_fn,
        params_of(),
        cross_entropy,
        batch_a,
        batch_b,
        nnx_hidden_states(network.module)[0],
    )


def _print(outcome: Outcome) -> None:
    screen = console()
    note = functools.partial(screen.print, highlight=False, markup=False)
    if outcome.findings is None:
        note(f"{PARTS[outcome.part].title}: not measured. {outcome.error}\n", style="yellow")
        return
    for one in tables_of(outcome.part, outcome.findings.numbers):
        if one.detail:
            continue
        rows = table(one.title, one.headings)
        for row in one.rows:
            rows.add_row(*row)
        screen.print(rows)
        if one.note:
            note(one.note, style="dim")
    for text in flags_in_words(outcome.findings.flags):
        note(text, style="yellow")
