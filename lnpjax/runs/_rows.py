"""The rows of a run: what they hold, and how they are written as strict JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from lnpjax._base.checks import require
from lnpjax.runs._checkpoints import is_key

Row = Mapping[str, Any]


class TrainRow(TypedDict):
    """One training step; `tokens` and `flops` count what was seen up to and including it."""

    kind: Literal["train"]
    step: int
    tokens: int
    flops: float
    loss: float
    learning_rate: float


class GroupComponents(TypedDict):
    """The LNP components of one parameter group."""

    delta_loss: float
    chi_net: float
    chi_pos: float


class LnpRow(TypedDict):
    """One LNP measurement (`lnpjax.lnp`), made at `step` in window number `window`.

    `status` is 0 where every component is defined. `sem_df` is the degrees of freedom of the two
    standard errors: null where these are zero, and absent from older runs. `loss_change` is the
    change of the loss on B over the update that was made, `linear_change` its linear prediction,
    `nu` their difference.
    """

    kind: Literal["lnp"]
    step: int
    window: int
    tokens: int
    flops: float
    loss_a: float
    loss_b: float
    delta_loss: float
    chi_loss: float
    chi_net: float
    chi_pos: float
    chi_net_sem: float
    chi_pos_sem: float
    sem_df: NotRequired[float]
    status: int
    loss_change: float
    linear_change: float
    nu: float
    groups: dict[str, GroupComponents]


class ValidationRow(TypedDict):
    """The loss on the whole validation set at `step`."""

    kind: Literal["validation"]
    step: int
    tokens: int
    flops: float
    loss: float


class SpectrumNumbers(TypedDict):
    """What is read off one spectrum (`lnpjax.spectra.SpectrumSummary`).

    Exponents come with their standard errors, the share of the variance that the fit explains, and
    the number of eigenvalues that it used.
    """

    rank_me: float
    effective_dimension: int
    trace: float
    alpha_head: float
    alpha_head_sem: float
    alpha_head_r_squared: float
    alpha_head_points: int
    alpha_tail: float
    alpha_tail_sem: float
    alpha_tail_r_squared: float
    alpha_tail_points: int
    status: int


class SpectraRow(TypedDict):
    """Spectra over a pool of held-out sequences, before the update of `step`.

    Of activations by layer, in the order of depth, and of per-sample gradients and weights by the
    path of the weight; `loss` is the validation loss at the same parameters. The eigenvalues are in
    `spectra/lens-STEP.npz`.
    """

    kind: Literal["spectra"]
    step: int
    tokens: int
    flops: float
    loss: float
    activations: dict[str, SpectrumNumbers]
    gradients: dict[str, SpectrumNumbers]
    weights: dict[str, SpectrumNumbers]


class RunConfig(TypedDict):
    """What the `config.json` of a training run holds at least."""

    lnpjax_version: str
    model: dict[str, Any]
    num_parameters: int
    data: dict[str, Any]
    training: dict[str, Any]


def training_flops(num_parameters: int, tokens: int) -> float:
    """The compute of training, 6 N D: the horizontal axis of Spectral Reach's figures.

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
    """A row without nesting: the keys of nested mappings joined with "/".

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
    """Where two configurations differ.

    Args:
        saved: one, nested or not.
        given: the other.

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
    """The rows of one kind as columns, nested keys joined with "/".

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


def encode(value: Any, where: str) -> Any:
    """A value as JSON takes it: numbers of any library as Python's, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    if getattr(value, "shape", None) == () and not is_key(value):
        value = np.asarray(value).item()
    scalar = value is None or isinstance(value, bool | int | float | str)
    got = f"{type(value).__name__} {getattr(value, 'shape', '')}".rstrip()
    require(scalar, where, expected="a scalar", got=got, error=TypeError)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decode(line: bytes, where: str) -> dict[str, Any]:
    """A line of such a file as a row; `where` names it in the message if it is none."""
    try:
        row = json.loads(line, object_hook=null_to_nan, parse_constant=_refuse_constant)
        require(isinstance(row, dict) and "kind" in row, "row", expected='a "kind"', got=row)
    except ValueError as error:
        raise ValueError(
            f'{where}: expected a row (a JSON object with a "kind"), got {line[:80]!r}'
        ) from error
    return row


def require_kind(row: Row) -> None:
    """Refuse a row that does not say what it is."""
    has_kind = isinstance(row.get("kind"), str)
    require(has_kind, "row", expected='a text under "kind"', got=dict(row))


def open_lines(file: Path) -> FileIO:
    """Open a file of rows to append to it, without the torn line that a kill may have left."""
    opened = FileIO(file, "a")
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):  # it would spoil the row after it
        os.ftruncate(opened.fileno(), whole)
    return opened


def append_line(file: FileIO, row: Row) -> None:
    """Append a row to a file in one unbuffered write, whole or not at all."""
    line = (json.dumps(encode(row, "row"), allow_nan=False) + "\n").encode()
    length = os.fstat(file.fileno()).st_size
    if os.write(file.fileno(), line) != len(line):
        os.ftruncate(file.fileno(), length)
        raise OSError(f"{os.fsdecode(file.name)}: no room for another row")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is no file."""
    content = file.read_bytes() if file.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last newline is a torn write
    return [decode(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def null_to_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Undoes, as an `object_hook` of `json`, what `encode` makes of a number that is not finite."""
    return {key: math.nan if value is None else value for key, value in values.items()}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strict_json(value: Mapping[str, Any], argument: str, indent: int | None = None) -> str:
    """`value` as strict JSON; `argument` names it in the message if it cannot be."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: expected what JSON can hold, got: {error}") from error
