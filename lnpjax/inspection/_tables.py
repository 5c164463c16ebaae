"""The numbers of an inspection as tables, for terminals and for pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lnpjax.inspection._groups import joined, kind_of, layer_of
from lnpjax.inspection._measures import CROSS, SELF
from lnpjax.shells._profiles import DOUBTS, with_error

Numbers = Mapping[str, Any]


class Table(NamedTuple):
    """A table of text.

    Attributes:
        title: what it shows.
        headings: of its columns; the first holds names.
        rows: as many cells each.
        note: what its headings mean; "" for nothing to say.
        detail: whether a terminal leaves it out, since it may be long.

    Example:
        >>> Table("Loss", ("batch", "loss"), (("A", "2.5"),)).detail
        False
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    detail: bool = False


def tables_of(part: str, numbers: Numbers) -> list[Table]:
    """Tabulate the numbers of a part.

    Args:
        part: its name, a key of `lnpjax.inspection.PARTS`.
        numbers: `Findings.numbers`, or what was read from `inspect.json`.

    Returns:
        The tables, in order.

    Example:
        >>> numbers = {"rank_me": 3.456, "effective_dimension": 2, "trace": 1.0}
        >>> numbers |= {"alpha_head": 1.5, "alpha_head_sem": 0.1, "alpha_tail": float("nan")}
        >>> (table,) = tables_of("weights", {"head/kernel": numbers})
        >>> table.rows
        (('head', '3.46', '2', '1.5 +- 0.1', '-'),)
    """
    return _TABLES[part](numbers)


def _loss(numbers: Numbers) -> list[Table]:
    rows = tuple(
        (
            name.upper(),
            _error(numbers[name], "loss"),
            _short(numbers[name]["perplexity"]),
            _error(numbers[name], "accuracy"),
        )
        for name in ("a", "b")
    )
    chance, classes = numbers["chance"], int(numbers["classes"])
    guess = ("chance", _short(chance), f"{classes}", _short(1 / classes))
    note = (
        "loss: mean cross-entropy in nats; perplexity: its exponential; accuracy: share of targets "
        "that are the most likely class; +-: standard error over samples; chance: a uniform guess "
        f"among {classes} classes"
    )
    return [Table("Loss", ("batch", "loss", "perplexity", "accuracy"), (*rows, guess), note)]


def _components(numbers: Numbers) -> list[Table]:
    labels = {SELF: "A against itself", CROSS: "A against B"}
    rows = tuple(
        (
            label,
            _short(numbers[name]["delta_loss"]),
            _short(numbers[name]["chi_loss"]),
            _relative(numbers[name], "chi_net"),
            _relative(numbers[name], "chi_pos"),
        )
        for name, label in labels.items()
    )
    headings = ("batch", "delta_loss", "chi_loss", "chi_net", "chi_pos")
    note = (
        "delta_loss = chi_loss x chi_net x chi_pos: fall of the loss per unit of learning rate; "
        "+-: standard error, from the probes"
    )
    tables = [Table("LNP components", headings, rows, note)]
    both = {name: numbers[name]["groups"] for name in labels}
    summed = {
        key: {name: joined(both[name], numbers[name]["chi_loss"], key) for name in labels}
        for key in (layer_of, kind_of)
    }
    at_most = "; +-: at most, since the errors of the parts are added up"
    if len(summed[layer_of][SELF]) < len(both[SELF]):
        tables.append(_by_group("By layer", numbers, summed[layer_of], at_most))
        tables.append(_by_group("By kind", numbers, summed[kind_of], at_most))
        tables.append(_by_group("By group", numbers, both, "; +-: standard error", detail=True))
    else:
        tables.append(_by_group("By group", numbers, both, "; +-: standard error"))
    return tables


def _by_group(
    title: str, numbers: Numbers, groups: Mapping[str, Numbers], errors: str, detail: bool = False
) -> Table:
    whole, crossed = numbers[SELF], numbers[CROSS]
    rows = tuple(
        (
            name,
            _share(group["chi_net"], whole["chi_net"]),
            _share(group["delta_loss"], whole["delta_loss"]),
            _relative(group, "chi_pos"),
            _share(groups[CROSS][name]["delta_loss"], crossed["delta_loss"]),
            _relative(groups[CROSS][name], "chi_pos"),
        )
        for name, group in groups[SELF].items()
    )
    note = (
        "chi_net, fall: shares of the response to parameters, and of the fall of the loss; on B: "
        f"read on batch B{errors}"
    )
    headings = ("", "chi_net", "fall", "chi_pos", "fall on B", "chi_pos on B")
    return Table(title, headings, rows, note, detail)


def _shells(numbers: Numbers) -> list[Table]:
    slope = _error(numbers, "exponent")
    doubted = numbers["slope_in_doubt"] and math.isfinite(numbers["exponent"])
    beyond = "beyond the shells" if math.isfinite(numbers["peak"]) else "-"
    rows = (
        ("peak (the frontier)", _error(numbers, "peak")),
        ("cut-off", _error(numbers, "cutoff", missing=beyond)),
        ("slope below the peak", f"{slope} ?" if doubted else slope),
        ("rms distance of the fit, ln", _short(numbers["residual"])),
        ("unresolved share of the energy", _percent(numbers.get("unresolved"))),
        ("change of the peak from half the products", _percent(numbers.get("peak_change"))),
    )
    note = (
        "peak, cut-off: eigenvalues at which the energy of the error per shell is largest, and "
        "above which it stays below 1 % of that; +-: standard error over "
        f"{int(numbers['batches'])} batches; do not read a peak that half the products move"
    )
    note += f"; ?: {DOUBTS}" if doubted else ""
    return [Table("Shells of the error", ("", "value"), rows, note)]


def _learning(numbers: Numbers) -> list[Table]:
    rows = (
        ("mean: chi_pos", _error(numbers, "chi_pos")),
        *(
            (label, _short(numbers[name]))
            for name, label in (
                ("tenth", "10 % lie below"),
                ("median", "median"),
                ("ninetieth", "90 % lie below"),
            )
        ),
        ("unresolved share", _percent(numbers["unresolved"])),
    )
    note = (
        "strengths p of eigenmodes, as shares of the trace, weighted with the squared loss "
        "gradient along them; quantiles below the unresolved share are known by their order of "
        "magnitude at best"
    )
    return [Table("Distribution of learning", ("", "value"), rows, note)]


def _density(numbers: Numbers) -> list[Table]:
    rows = (
        ("eigenvalues", f"{int(numbers['dimension']):,}"),
        ("largest", _short(numbers["largest"])),
        ("trace", _error(numbers, "trace")),
        ("effective rank", _error(numbers, "effective_rank")),
        ("the same from half the products", _error(numbers, "effective_rank_half")),
        ("inverse participation ratio", _error(numbers, "inverse_participation_ratio")),
    )
    note = (
        f"from {int(numbers['products'])} products for each random vector; largest: as these find "
        "it; +-: standard error over them; the effective rank falls as products are added, which "
        "its error does not hold: where half of them give another, the last is an upper bound"
    )
    return [Table("Spectral density", ("", "value"), rows, note)]


def _spectra_table(title: str) -> Any:
    def tabulate(numbers: Numbers) -> list[Table]:
        rows = tuple(
            (
                name.removesuffix("/kernel"),
                _short(summary["rank_me"]),
                f"{int(summary['effective_dimension'])}",
                _error(summary, "alpha_head"),
                _error(summary, "alpha_tail"),
            )
            for name, summary in numbers.items()
        )
        note = (
            "RankMe: the exponential of the spectrum's entropy, in modes; 90 %: modes that hold 90 "
            "% of the trace; head, tail: exponents of power laws, +- their standard errors"
        )
        return [Table(title, ("", "RankMe", "90 %", "head", "tail"), rows, note)]

    return tabulate


_TABLES = {
    "loss": _loss,
    "components": _components,
    "shells": _shells,
    "learning": _learning,
    "density": _density,
    "activations": _spectra_table("Activations"),
    "gradients": _spectra_table("Per-sample gradients"),
    "weights": _spectra_table("Weights"),
}


def _error(numbers: Numbers, name: str, *, missing: str = "-") -> str:
    return with_error(numbers[name], float(numbers.get(f"{name}_sem", math.nan)), missing=missing)


def _relative(numbers: Numbers, name: str) -> str:
    value, sem = numbers[name], numbers.get(f"{name}_sem", math.nan)
    error = abs(sem / value) if value else math.nan
    return _short(value) + (f" +- {100 * error:.2g}%" if math.isfinite(error) else "")


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _share(part: float, whole: float) -> str:
    return _percent(part / whole if whole else math.nan)


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.3g} %"
