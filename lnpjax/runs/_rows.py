"""What a run's folder holds: kinds of rows, their fields and units, and names of files.

This is the only table of them. Writers take from it what to write, readers how to find it, and
figures their labels and units. A field or file that is added here is added everywhere; one that is
renamed here can no longer be read from runs that exist.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from lnpjax._base.checks import require

Row: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["activations", "gradients", "weights"]
"""The kinds of spectra that are recorded together."""

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
SESSIONS_FILE = "sessions.jsonl"
CUT_FILE = "cut.jsonl"
LOCK_FILE = ".lock"
SPECTRA_FOLDER = "spectra"
CHECKPOINTS_FOLDER = "checkpoints"
FIGURES_FOLDER = "figures"


@dataclasses.dataclass(frozen=True)
class Field:
    """One entry of a row, or one array of a file.

    Attributes:
        name: its key.
        definition: what it is, in words.
        reading: what one learns from it, in words; "" where the definition says it.
        symbol: its name in figures.
        unit: its unit in figures.
        parts: the entries of each item, where it holds a mapping of items by name.
        optional: whether only some rows have it.
    """

    name: str
    definition: str
    reading: str = ""
    symbol: str = ""
    unit: str = ""
    parts: tuple[Field, ...] = ()
    optional: bool = False

    @property
    def label(self) -> str:
        """The label of an axis: symbol and unit."""
        return f"{self.symbol} ({self.unit})" if self.unit else self.symbol


@dataclasses.dataclass(frozen=True)
class RowKind:
    """One kind of row: what it stands for, and its fields beyond those that all rows share."""

    definition: str
    fields: tuple[Field, ...]

    def names(self, *, optional: bool = True) -> tuple[str, ...]:
        """Return the keys of its fields, with or without those that only some rows have."""
        return tuple(field.name for field in self.fields if optional or not field.optional)

    def field(self, name: str) -> Field:
        """Return the field of a name.

        Raises:
            KeyError: if there is none.
        """
        return {field.name: field for field in self.fields}[name]


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """The arrays that are saved at some steps, in `spectra/PREFIX-STEP.npz`."""

    prefix: str
    definition: str
    fields: tuple[Field, ...]

    def name(self, step: int) -> str:
        """Return the name of the file of a step, as `Run.save_spectrum` takes it.

        Example:
            >>> POSITION_FILE.name(12)
            'position-00000012'
        """
        return f"{self.prefix}-{step:08d}"

    def among(self, names: Iterable[str]) -> Iterator[str]:
        """Return those of the names that are of such a file, in order."""
        return (name for name in names if name.startswith(f"{self.prefix}-"))


STEP = Field("step", "the step", symbol="training step")
TOKENS = Field("tokens", "tokens seen up to and including the step", symbol="training tokens")
FLOPS = Field(
    "flops", "compute up to and including the step", "", "training compute 6 N D", "FLOPs"
)
SHARED = (STEP, TOKENS, FLOPS)
"""What every row of `metrics.jsonl` begins with, after its "kind"."""

_LOSS = Field("loss", "mean cross-entropy", symbol="loss", unit="nats")
_ACCURACY = Field(
    "accuracy",
    "share of samples whose most probable class is their label; where classes are learned",
    symbol="accuracy",
    optional=True,
)
_STATUS = Field("status", "flags of `lnpjax.Status`; 0 where everything is defined")
_CHI_NET = Field(
    "chi_net",
    "trace of the eNTK",
    "how strongly the outputs respond to the parameters",
    r"$\chi_\mathrm{net}$",
    "output$^2$ per parameter$^2$",
)
_CHI_POS = Field(
    "chi_pos",
    "mean normalised eNTK eigenvalue",
    "where in the spectrum it learns; lower is deeper",
    r"$\chi_\mathrm{pos}$",
    "dimensionless",
)
_DELTA_LOSS = Field(
    "delta_loss", "fall of the loss on B per unit of learning rate on A", unit="nats"
)
_SEM_DF = Field("sem_df", "degrees of freedom of the standard errors; not in older runs")

MEASURED = (
    Field("loss_a", "loss on batch A", unit="nats"),
    Field("loss_b", "loss on batch B", unit="nats"),
    _DELTA_LOSS,
    Field(
        "chi_loss",
        "squared size of the loss gradient at the outputs",
        "how wrong the predictions still are",
        r"$\chi_\mathrm{loss}$",
        "nats$^2$ per output$^2$",
    ),
    _CHI_NET,
    _CHI_POS,
    Field("chi_net_sem", "standard error of chi_net, from the probes", unit=_CHI_NET.unit),
    Field("chi_pos_sem", "standard error of chi_pos, from the probes", unit=_CHI_POS.unit),
    _SEM_DF,
    _STATUS,
    Field("loss_change", "change of the loss on B over the update that was made", unit="nats"),
    Field("linear_change", "its linear prediction", unit="nats"),
    Field("nu", "loss_change - linear_change", unit="nats"),
)
"""The scalars of an "lnp" row: fields of `lnpjax.LNP`, in the order of the row."""
GROUP_PARTS = (_DELTA_LOSS, _CHI_NET, _CHI_POS)
"""What an "lnp" row says of each parameter group: fields of `lnpjax.GroupLNP`."""
_EXPONENT = (
    ("", "power-law exponent of", r"exponent $\alpha$", ""),
    ("_sem", "standard error of the exponent of", "", ""),
    ("_r_squared", "share of the variance that the fit explains, of", "", ""),
    ("_points", "eigenvalues that the fit used, of", "", "modes"),
)
SPECTRUM_NUMBERS = (
    Field("rank_me", "the exponential of the spectrum's entropy", "", "RankMe", "modes"),
    Field("effective_dimension", "modes that hold 90 % of the trace", unit="modes"),
    Field("trace", "sum of the eigenvalues"),
    *(
        Field(f"alpha_{end}{suffix}", f"{words} the {end}", "", symbol, unit)
        for end in ("head", "tail")
        for suffix, words, symbol, unit in _EXPONENT
    ),
    _STATUS,
)
"""What is read off one spectrum (`lnpjax.spectra.SpectrumSummary`)."""
POSITION_NUMBERS = (
    dataclasses.replace(_CHI_POS, definition="mean of the distribution: the spectral position"),
    Field("chi_pos_sem", "its standard error"),
    _SEM_DF,
    Field("tenth", "p below which 10 % of the squared loss gradient lie"),
    Field("median", "p below which half of it lies"),
    Field("ninetieth", "p below which 90 % of it lie"),
    Field("unresolved", "weight of nodes that have not converged to eigenvalues"),
    Field("trace", "trace of the eNTK, estimated"),
    _LOSS,
    _STATUS,
)
"""The scalars of `lnpjax.spectra.PositionDistribution`."""

ROWS = {
    "train": RowKind(
        "One training step, at the parameters before its update.",
        (_LOSS, Field("learning_rate", "learning rate of the update")),
    ),
    "lnp": RowKind(
        "One measurement of the LNP components (`lnpjax.lnp`), before the update of its step.",
        (
            Field("window", "number of the window that the step belongs to"),
            *MEASURED,
            Field("groups", "the parts, by parameter group", parts=GROUP_PARTS),
        ),
    ),
    "distribution": RowKind(
        "How learning from the training batch is distributed over the spectrum, before the update "
        "of its step; `p` is an eigenvalue's share of the trace.",
        POSITION_NUMBERS,
    ),
    "validation": RowKind(
        "The loss on the whole validation set, at the parameters after the step's update.",
        (_LOSS, _ACCURACY),
    ),
    "test": RowKind(
        "The loss on the whole test set, at the parameters after the step's update.",
        (_LOSS, _ACCURACY),
    ),
    "spectra": RowKind(
        "Spectra over a pool of held-out sequences, before the update of the step; `loss` is the "
        "validation loss at the same parameters. Of activations by layer, in the order of depth; "
        "of per-sample gradients and of weights by the path of the weight.",
        (
            Field(
                "tokens_before",
                "tokens that these parameters were trained on: those of the steps before; not in "
                "older runs",
                unit="tokens",
            ),
            _LOSS,
            *(
                Field(kind, f"what is read off each spectrum of {kind}", parts=SPECTRUM_NUMBERS)
                for kind in get_args(Kind)
            ),
        ),
    ),
}
"""The rows of `metrics.jsonl`, by their "kind"."""
PLOTTED = {
    "train": ("loss", "learning_rate"),
    "validation": ("loss", "accuracy"),
    "test": ("loss", "accuracy"),
    "lnp": ("chi_loss", "chi_net", "chi_pos", "chi_net_sem", "chi_pos_sem"),
}
"""The numbers of a run that people plot, of all rows; of groups, chi_pos."""
SESSION = RowKind(
    "What one process did for the run, and how fast, compilation left out.",
    (
        Field("status", '"finished", "stopped" or "diverged"'),
        Field("first_step", "the first step that it made"),
        Field("last_step", "the last step that it made"),
        Field("tokens", "tokens trained on", unit="tokens"),
        Field("seconds", "from its first step to its last, measurements included", unit="s"),
        Field("tokens_per_second", "their ratio", unit="tokens/s"),
        Field("plain_tokens_per_second", "of steps without a measurement", unit="tokens/s"),
        Field("measuring_share", "share of the time that went into measuring LNP components"),
        Field("environment", "releases, settings of JAX and the kind of device, by name"),
    ),
)
"""The rows of `sessions.jsonl`, whose "kind" is "session"."""

LENS_FILE = ArrayFile(
    "lens",
    "The spectra of a spectra row.",
    (
        STEP,
        *(
            Field(kind, f"eigenvalues of each spectrum of {kind}, descending")
            for kind in get_args(Kind)
        ),
        Field("head_window", "ranks (first, last) of the fit of each spectrum's head"),
        Field("tail_window", "ranks (first, last) of the fit of each spectrum's tail"),
    ),
)
"""Its arrays are called "KIND/NAME", "head_window/KIND/NAME" and "tail_window/KIND/NAME"."""
POSITION_ARRAYS = (
    Field("p", "normalised eigenvalues, descending", "", "normalised eigenvalue $p$",
          "share of the trace"),
    Field("weights", "share of the squared loss gradient along each"),
    *POSITION_NUMBERS,
)  # fmt: skip
"""Fields of `lnpjax.spectra.PositionDistribution`."""
QUADRATURE_ARRAYS = (
    Field("error_bounds", "how far each node may be from an eigenvalue"),
    Field("num_nodes", "nodes that the recursion found"),
    Field("num_converged", "nodes that have converged"),
    Field("orthogonality_loss", "how far the Lanczos vectors are from orthogonal"),
)
"""Fields of its `lnpjax.spectra.SpectralMeasure`, which say how good it is."""
POSITION_FILE = ArrayFile(
    "position",
    "How learning is distributed over the spectrum, before the update of the step.",
    (STEP, *POSITION_ARRAYS, *QUADRATURE_ARRAYS),
)


def make_row(
    kind: str, step: int, tokens: int | None, flops: float | None, **values: Any
) -> dict[str, Any]:
    """Return a row of a kind in `ROWS`, with its fields in their order.

    Args:
        kind: the kind.
        step: the step.
        tokens: seen up to and including the step; `None` where that is unknown.
        flops: made up to and including the step, or `None`.
        **values: the fields of the kind; optional ones may be left out.

    Raises:
        KeyError: if another field is missing.
        ValueError: if there is one that the kind does not have.

    Example:
        >>> make_row("validation", 9, 640, 1e9, loss=2.5)
        {'kind': 'validation', 'step': 9, 'tokens': 640, 'flops': 1000000000.0, 'loss': 2.5}
    """
    fields = ROWS[kind].names()
    others = sorted(set(values) - set(fields))
    require(not others, "values", expected=f"fields of rows {kind!r}, {fields}", got=others)
    shared = dict(zip((field.name for field in SHARED), (step, tokens, flops), strict=True))
    given = [name for name in fields if name in values or name in ROWS[kind].names(optional=False)]
    return {"kind": kind, **shared, **{name: values[name] for name in given}}


def training_flops(num_parameters: int, tokens: int) -> float:
    """Return the compute of training, 6 N D: the horizontal axis of *Spectral Reach*'s figures.

    Args:
        num_parameters: N, the number of parameters.
        tokens: D, the number of tokens seen.

    Returns:
        Floating-point operations.

    Example:
        >>> training_flops(1_000_000, 2_000)
        12000000000.0
    """
    return 6.0 * num_parameters * tokens


def flatten(row: Row, prefix: str = "") -> dict[str, Any]:
    """Return a row without nesting: the keys of nested mappings joined with "/".

    Args:
        row: scalars and mappings of them.
        prefix: what every key starts with.

    Returns:
        Scalars by joined key, in order.

    Example:
        >>> flatten({"step": 3, "groups": {"head": {"chi_net": 2.0}}})
        {'step': 3, 'groups/head/chi_net': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}/") if nested else {f"{prefix}{key}": value}
    return flat


def differences(saved: Row, given: Row) -> list[tuple[str, Any, Any]]:
    """Return where two configurations differ.

    Args:
        saved: one configuration, nested or not.
        given: the other configuration, nested or not.

    Returns:
        For each value that differs, its joined key and both values; "absent" where there is none.

    Example:
        >>> differences({"model": {"width": 2}}, {"model": {"width": 3}})
        [('model/width', 2, 3)]
    """
    old, new = flatten(saved), flatten(given)
    pairs = ((name, old.get(name, "absent"), new.get(name, "absent")) for name in old | new)
    return [(name, was, now) for name, was, now in pairs if was != now]


def columns(rows: Iterable[Row], kind: str) -> dict[str, np.ndarray]:
    """Return the rows of one kind as columns, nested keys joined with "/".

    Args:
        rows: rows as `Run.rows` returns them.
        kind: which rows.

    Returns:
        Arrays `(n,)` over the n rows of that kind, in order; NaN where a row lacks the key or
        holds None. Empty if there is no such row.

    Example:
        >>> rows = [{"kind": "train", "step": 0, "loss": 2.0}, {"kind": "train", "step": 1}]
        >>> columns(rows, "train")
        {'step': array([0, 1]), 'loss': array([ 2., nan])}
    """
    flat = [flatten(row) for row in rows if row["kind"] == kind]
    names = dict.fromkeys(name for row in flat for name in row if name != "kind")
    values = {name: [row.get(name) for row in flat] for name in names}
    return {
        name: np.asarray([math.nan if value is None else value for value in column])
        for name, column in values.items()
    }
