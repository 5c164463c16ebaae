"""What a comparison needs of a run: its losses, its speed, and the spectra measured on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.runs._rows import LENS_FILE, Kind, columns
from lnpjax.runs._run import Run

ATTENTION_OUTPUT = "attention/output"


@dataclasses.dataclass(frozen=True)
class MeasuredSpectra:
    """The spectra of one run at one step.

    Attributes:
        step: the step.
        tokens: that the parameters were trained on, those of the steps before: the spectra are
            those before the update of the step.
        loss: the validation loss at the same parameters.
        summaries: numbers by kind ("activations", "gradients", "weights"), name and quantity
            ("rank_me", "alpha_head", "alpha_head_sem", ...); names by depth, the deepest last.
        arrays: eigenvalues by "KIND/NAME", descending, and rank windows; empty where the file of
            the step is missing.

    Example:
        >>> numbers = {"layers/0": {"rank_me": 5.0}, "layers/1": {"rank_me": 9.0}}
        >>> spectra = MeasuredSpectra(3, 2048.0, 4.2, {"activations": numbers}, {})
        >>> spectra.probe("activations"), spectra.number("activations", "rank_me")
        ('layers/1', 9.0)
    """

    step: int
    tokens: float
    loss: float
    summaries: Mapping[str, Mapping[str, Mapping[str, float]]]
    arrays: Mapping[str, np.ndarray]

    def names(self, kind: Kind) -> tuple[str, ...]:
        """List the layers or weights that were measured, the deepest last."""
        return tuple(self.summaries.get(kind, ()))

    def probe(self, kind: Kind) -> str | None:
        """Return the layer or weight that is meant where none is named; None if there is none.

        That is the deepest; of gradients and weights the deepest attention output, where it was
        measured (*Spectral Lens*, appendix C: it has the same role in all architectures).
        """
        names = self.names(kind)
        outputs = [name for name in names if ATTENTION_OUTPUT in name]
        return (outputs or names)[-1] if names else None

    def number(self, kind: Kind, quantity: str, name: str | None = None) -> float:
        """Return a summary's number; NaN where it is missing. By default, that of `probe`."""
        name = self.probe(kind) if name is None else name
        return float(self.summaries.get(kind, {}).get(name or "", {}).get(quantity, math.nan))

    def eigenvalues(self, kind: Kind, name: str | None = None) -> Float[np.ndarray, " k"] | None:
        """Return a spectrum, descending; None where it is missing. By default, that of `probe`."""
        name = self.probe(kind) if name is None else name
        return self.arrays.get(f"{kind}/{name}")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What a comparison needs of a run, made by `read_run`.

    Attributes:
        name: of the run's folder.
        config: its configuration.
        validation_tokens: at which the validation loss was measured, ascending.
        validation_losses: there, in nats per token.
        num_tokens: seen in all.
        tokens_per_second: measurements included; NaN where it was not recorded.
        plain_tokens_per_second: measurements left out; NaN where it was not recorded.
        spectra: the measured steps, ascending.
    """

    name: str
    config: Mapping[str, Any]
    validation_tokens: Float[np.ndarray, " n"]
    validation_losses: Float[np.ndarray, " n"]
    num_tokens: float
    tokens_per_second: float
    plain_tokens_per_second: float
    spectra: tuple[MeasuredSpectra, ...]

    @property
    def batch_size(self) -> int | None:
        """Sequences per step, where the configuration says so."""
        return self.config.get("training", {}).get("batch_size")

    @property
    def final_loss(self) -> float:
        """The last validation loss; NaN without one."""
        return float(self.validation_losses[-1]) if len(self.validation_losses) else math.nan

    def loss_at(self, tokens: float) -> float:
        """Interpolate the validation loss in the logarithm of tokens; NaN outside of the run."""
        seen = self.validation_tokens > 0
        if not np.any(seen) or not tokens > 0:
            return math.nan
        logarithms, losses = np.log(self.validation_tokens[seen]), self.validation_losses[seen]
        outside = {"left": math.nan, "right": math.nan}
        return float(np.interp(math.log(tokens), logarithms, losses, **outside))

    def series(self, kind: Kind, quantity: str, name: str | None = None) -> np.ndarray:
        """Return a summary's number at every measured step, `(num_steps,)`."""
        return np.array([spectra.number(kind, quantity, name) for spectra in self.spectra])

    def spectra_tokens(self) -> Float[np.ndarray, " num_steps"]:
        """Return the tokens seen at every measured step."""
        return np.array([spectra.tokens for spectra in self.spectra], np.float64)


def read_run(run: Run) -> RunSummary:
    """Read what a comparison needs from a run's folder.

    Args:
        run: the run; its spectra are those that `lnpjax train --spectra` recorded, if any.

    Returns:
        The summary. Validation losses that are not finite are left out.

    Raises:
        ValueError: if the run has neither training nor validation rows, so that there is nothing
            to compare.
        OSError: if its files cannot be read.

    Example:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp(), {}) as run:
        ...     run.append({"kind": "validation", "step": 0, "tokens": 64, "loss": 5.5})
        ...     run.append({"kind": "validation", "step": 9, "tokens": 640, "loss": 2.5})
        ...     summary = read_run(run)
        >>> summary.final_loss, summary.num_tokens
        (2.5, 640.0)
    """
    rows = run.rows()
    train, validation = columns(rows, "train"), columns(rows, "validation")
    seen = [table["tokens"] for table in (train, validation) if "tokens" in table]
    require(
        bool(seen),
        "run",
        expected="a run with training or validation rows",
        got=f"none in {run.path}",
    )
    require(
        bool(np.isfinite(np.concatenate(seen)).any()),
        "run",
        expected="rows that say how many tokens were seen (lnpjax.Recorder: tokens_per_step)",
        got=f"none in {run.path}",
    )
    tokens = np.asarray(validation.get("tokens", []), np.float64)
    losses = np.asarray(validation.get("loss", []), np.float64)
    finite = np.isfinite(losses)
    saved = set(LENS_FILE.among(run.spectra()))
    spectra = []
    for row in rows:
        if row["kind"] == "spectra":
            file = LENS_FILE.name(row["step"])
            spectra.append(_measured(row, run.spectrum(file) if file in saved else {}))
    measured, plain = _throughput(run.sessions())
    return RunSummary(
        name=run.path.name,
        config=run.config,
        validation_tokens=tokens[finite],
        validation_losses=losses[finite],
        num_tokens=float(max(np.max(tokens_of_kind) for tokens_of_kind in seen)),
        tokens_per_second=measured,
        plain_tokens_per_second=plain,
        spectra=tuple(spectra),
    )


def _measured(row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> MeasuredSpectra:
    summaries = {kind: row[kind] for kind in get_args(Kind) if row.get(kind)}
    loss, step = float(row.get("loss", math.nan)), int(row["step"])
    # Older rows count the tokens of the step itself, which these parameters have not seen.
    tokens = row.get("tokens_before", row["tokens"] * step / (step + 1))
    return MeasuredSpectra(step, float(tokens), loss, summaries, arrays)


def _throughput(sessions: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Return tokens per second over all sessions of a run, with and without measurements."""
    tokens = seconds = plain_tokens = plain_seconds = 0.0
    for session in sessions:
        tokens += session["tokens"]
        seconds += session["seconds"]
        plain = session.get("plain_tokens_per_second") or math.nan
        if plain > 0:
            plain_tokens += session["tokens"]
            plain_seconds += session["tokens"] / plain
    return (
        tokens / seconds if seconds > 0 else math.nan,
        plain_tokens / plain_seconds if plain_seconds > 0 else math.nan,
    )
