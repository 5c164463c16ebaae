"""How results print: as tables with errors and meanings, as HTML in notebooks, traced as a line."""

from __future__ import annotations

import dataclasses
import html
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lnpjax._base.checks import concrete
from lnpjax.status import describe_status

Class = TypeVar("Class", bound=type)
ERROR = "_sem"
"""What the name of a standard error adds to the name of the number it belongs to."""


def result(cls: Class) -> Class:
    """Register a frozen dataclass as a pytree, and let it print as a table.

    Example:
        >>> @result
        ... @dataclasses.dataclass(frozen=True)
        ... class Mean:
        ...     '''A mean.
        ...
        ...     Attributes:
        ...         value: the mean, in units of the data.
        ...         value_sem: its standard error.
        ...     '''
        ...
        ...     value: jax.Array
        ...     value_sem: jax.Array
        >>> Mean(jnp.array(1.5), jnp.array(0.25))
        Mean
          value  1.5 +- 0.25  the mean, in units of the data
        >>> jax.eval_shape(lambda: Mean(jnp.array(1.5), jnp.array(0.25)))
        Mean(value: float32[], value_sem: float32[])
    """
    jax.tree_util.register_dataclass(cls)
    cls.__repr__ = _text  # type: ignore[assignment]
    cls._repr_html_ = _html  # type: ignore[attr-defined]
    return cls


class _Row(NamedTuple):
    name: str
    value: str
    meaning: str


def _rows(node: Any, prefix: str = "") -> Iterator[_Row]:
    meanings = _meanings(type(node))
    fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    for name, value in fields.items():
        if name.endswith(ERROR) and name.removesuffix(ERROR) in fields:
            continue
        if name == "status" and jnp.ndim(value) == 0:
            text = _status(value)
        else:
            text = _shown(value, fields.get(name + ERROR))
        yield _Row(prefix + name, text, "" if prefix else meanings.get(name, ""))
        parts = value if isinstance(value, Mapping) else {}
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{prefix}{name}.")
        for part, inner in parts.items():
            if dataclasses.is_dataclass(inner):
                yield from _rows(inner, f"{prefix}{name}[{part!r}].")
            else:
                error = fields.get(name + ERROR)
                error = error.get(part) if isinstance(error, Mapping) else None
                yield _Row(f"{prefix}{name}[{part!r}]", _shown(inner, error), "")


def _meanings(cls: type) -> dict[str, str]:
    """Return what the fields of a class mean, from the section on its attributes."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, flags=re.MULTILINE)
    return {name: _first_clause(" ".join(text.split())) for name, text in entries}


def _first_clause(text: str) -> str:
    clause = re.split(r"(?<=\w)[.;:](?:\s|$)|\s\((?:\*|equation|eq\.)", text.replace("`", ""))[0]
    clause = clause.rstrip(".")
    return clause if len(clause) <= 70 else clause[:67].rsplit(" ", 1)[0] + " ..."


def _status(value: Any) -> str:
    status = concrete(value)
    return "?" if status is None else describe_status(status)


def _shown(value: Any, error: Any = None) -> str:
    if isinstance(value, Mapping):
        return f"{len(value)} of them"
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    if not hasattr(value, "dtype"):
        return str(value) if value is None or isinstance(value, int | float | str) else "a pytree"
    number = concrete(value)
    if number is None or number.size != 1 or number.ndim:
        return _summary(value, number)
    text = f"{number:.5g}" if number.dtype.kind in "fV" else str(number)
    error = None if error is None else concrete(error)
    return text if error is None else f"{text} +- {float(error):.2g}"


def _summary(value: Any, numbers: np.ndarray | None) -> str:
    text = f"{jnp.dtype(value.dtype).name}{list(value.shape)}"
    if numbers is None or numbers.dtype.kind not in "fiu":
        return text
    finite = numbers[np.isfinite(numbers)]
    return f"{text}, {finite.min():.4g} to {finite.max():.4g}" if finite.size else text


def _is_known(node: Any) -> bool:
    leaves = jax.tree.leaves(node)
    return not any(isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct) for leaf in leaves)


def _line(node: Any) -> str:
    def shown(value: Any) -> str:
        if dataclasses.is_dataclass(value) or not hasattr(value, "dtype"):
            return "..."
        return f"{value.dtype.name}{list(value.shape)}"

    fields = (f"{f.name}: {shown(getattr(node, f.name))}" for f in dataclasses.fields(node))
    return f"{type(node).__name__}({', '.join(fields)})"


def _text(node: Any) -> str:
    if not _is_known(node):
        return _line(node)
    rows = list(_rows(node))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [
        f"  {row.name:{widths[0]}}  {row.value:{widths[1]}}  {row.meaning}".rstrip() for row in rows
    ]
    return "\n".join([type(node).__name__, *lines])


def _html(node: Any) -> str:
    if not _is_known(node):
        return f"<code>{html.escape(_line(node))}</code>"
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>"
        for row in _rows(node)
    )
    head = "<tr><th></th><th>value</th><th>meaning</th></tr>"
    return f"<table><caption>{type(node).__name__}</caption>{head}{cells}</table>"
