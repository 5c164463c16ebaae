"""Settings in frozen dataclasses, from the plain values of JSON and YAML."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from jax.typing import DTypeLike

from lnpjax._base.checks import import_extra, is_integer, require

T = TypeVar("T")
# YAML 1.1, which its reader follows, takes 5e-3 for text.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def decode(
    kind: type[T], values: Mapping[str, Any], *, source: str, refuse_unknown: bool = True
) -> T:
    """Make a dataclass of plain values; nothing is taken for another type than it is.

    Args:
        kind: the dataclass, of numbers, texts, tuples and such dataclasses.
        values: its fields by name, with lists for tuples; those left out take their defaults.
        source: what the values are called in messages.
        refuse_unknown: whether a name that is not a field is refused, or ignored.

    Returns:
        The dataclass.

    Raises:
        ValueError: if a value is of another type or refused by its dataclass, or a name is unknown;
            the message names the place, and the nearest name.
        ImportError: if cattrs is missing.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class Sizes:
        ...     widths: tuple[int, ...] = (1, 2)
        >>> decode(Sizes, {"widths": [3]}, source="sizes.json")
        Sizes(widths=(3,))
        >>> decode(Sizes, {"width": [3]}, source="sizes.json")
        Traceback (most recent call last):
            ...
        ValueError: sizes.json: expected the fields of Sizes (the nearest is widths), got width
    """
    errors = import_extra("cattrs.errors", extra="run", purpose="reading a configuration")
    got = type(values).__name__
    require(isinstance(values, Mapping), source, expected="settings by name", got=got)
    try:
        return _converter(refuse_unknown).structure(values, kind)
    except errors.BaseValidationError as error:
        raise ValueError(f"{source}: {_explain(error)}") from error


def read_settings(file: Path) -> dict[str, Any]:
    """Read the settings that a JSON or YAML file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another suffix, is damaged, or holds no mapping.
        ImportError: if it is YAML and pyyaml is missing.
    """
    kinds = (".json", ".yaml", ".yml")
    suffix = file.suffix.lower()
    require(suffix in kinds, "config", expected=f"a file ending in {', '.join(kinds)}", got=file)
    expected = "an existing file"
    require(file.is_file(), "config", expected=expected, got=file, error=FileNotFoundError)
    name = "JSON" if suffix == ".json" else "YAML"
    try:
        text = file.read_text(encoding="utf-8-sig")
        values = json.loads(text) if name == "JSON" else _load_yaml(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: expected a {name} file, got {file} ({reason})") from error
    got = f"{type(values).__name__} in {file}"
    require(isinstance(values, dict), "config", expected="settings by name", got=got)
    return values


def _load_yaml(text: str) -> Any:
    yaml = import_extra("yaml", extra="run", purpose="reading a YAML file")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


@functools.cache
def _converter(refuse_unknown: bool) -> Any:
    cattrs = import_extra("cattrs", extra="run", purpose="reading a configuration")
    converter = cattrs.Converter(forbid_extra_keys=refuse_unknown)
    converter.register_structure_hook(int, _checked("an integer", is_integer))
    converter.register_structure_hook(float, lambda value, _: float(_number(value, float)))
    converter.register_structure_hook(str, _checked("a text", lambda v: isinstance(v, str)))
    converter.register_structure_hook(
        bool, _checked("true or false", lambda v: isinstance(v, bool))
    )
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _choice)
    converter.register_structure_hook_func(lambda kind: kind == DTypeLike, lambda value, _: value)
    converter.register_structure_hook_func(_is_choice_of_dataclasses, lambda value, _: value)
    return converter


def _is_choice_of_dataclasses(kind: Any) -> bool:
    """Return whether a field holds one of several dataclasses, which its caller has made."""
    kinds = get_args(kind)
    return len(kinds) > 1 and all(dataclasses.is_dataclass(one) for one in kinds)


def _checked(expected: str, accepts: Any) -> Any:
    """Return a hook that takes a value as it is: cattrs itself would call ``int("3")``."""

    def hook(value: Any, _: type) -> Any:
        if not accepts(value):
            raise ValueError(f"expected {expected}, got {value!r}")
        return value

    return hook


def _choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if value not in choices:
        raise ValueError(f"expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


_number = _checked("a number", lambda value: is_integer(value) or isinstance(value, float))


def _explain(error: Any) -> str:
    """Return the first thing that is wrong, after the place where it is."""
    transform = import_extra("cattrs", extra="run", purpose="configurations").transform_error
    first = transform(error, path="", format_exception=_describe)[0]
    message, _, place = first.rpartition(" @ ")
    place = place.removeprefix(".")
    return f"{place}: {message}" if place else message


def _describe(error: BaseException, kind: type | None) -> str:
    errors = import_extra("cattrs.errors", extra="run", purpose="configurations")
    if isinstance(error, errors.ForbiddenExtraKeysError):
        return _describe_unknown(error)
    if isinstance(error, KeyError):
        return "expected a value, got none"
    if kind is not None and not isinstance(error, ValueError):
        return f"expected {getattr(kind, '__name__', kind)}, got a value of another type"
    return str(error)


def _describe_unknown(error: Any) -> str:
    names = sorted(map(str, error.extra_fields))
    hint = nearest(names[0], error.cl.__dataclass_fields__)
    return f"expected the fields of {error.cl.__name__}{hint}, got {', '.join(names)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what a message says of the known name that a wrong one may stand for.

    Example:
        >>> nearest("sede", ["seed", "steps"])
        ' (the nearest is seed)'
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (the nearest is {close[0]})" if close else ""
