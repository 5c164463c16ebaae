"""Fields of a `config.json` that somebody else wrote."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lnpjax._base.checks import check_count, is_integer, require


@dataclasses.dataclass(frozen=True)
class Fields:
    """A description of a model by the names of its fields, each of which may have several.

    Attributes:
        values: what the file holds.
        where: the file, for messages.

    Example:
        >>> Fields({"n_embd": 48}, "config.json").count("hidden_size", "n_embd")
        48
    """

    values: Mapping[str, Any]
    where: str

    def get(self, *names: str, default: Any = None) -> Any:
        """Return the first of the fields that is there and is not null."""
        present = (self.values[name] for name in names if self.values.get(name) is not None)
        return next(present, default)

    def count(self, *names: str, default: int | None = None) -> int:
        """Return an integer of at least 1.

        Raises:
            ValueError: if it is anything else, or missing.
        """
        value = self.get(*names, default=default)
        check_count(self._called(names), value)
        return int(value)

    def number(self, *names: str, default: float | None = None) -> float:
        """Return a number above 0.

        Raises:
            ValueError: if it is anything else, or missing.
        """
        value = self.get(*names, default=default)
        real = is_integer(value) or isinstance(value, float)
        good = real and 0 < value < math.inf
        require(good, self._called(names), expected="a number > 0", got=repr(value))
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        """Return true or false.

        Raises:
            ValueError: if it is anything else.
        """
        value = self.get(*names, default=default)
        good = isinstance(value, bool)
        require(good, self._called(names), expected="true or false", got=repr(value))
        return value

    def choice(self, *names: str, of: Mapping[str, Any], default: str) -> Any:
        """Return what one of several words stands for.

        Raises:
            ValueError: if it is another word; the message lists those that are known.
        """
        value = self.get(*names, default=default)
        known = isinstance(value, str) and value in of
        expected = f"one of {', '.join(map(repr, of))}"
        require(known, self._called(names), expected=expected, got=repr(value))
        return of[value]

    def only(self, name: str, value: Any) -> None:
        """Refuse a variant of an architecture that the module does not compute.

        Raises:
            ValueError: if the field is there and has another value.
        """
        present = self.get(name, default=value)
        expected = f"{value!r}, since the model is not written for others"
        require(present == value, self._called((name,)), expected=expected, got=repr(present))

    def inner(self, *names: str) -> Fields:
        """Return the fields of an object within the description; none if it is missing.

        Raises:
            ValueError: if it is not an object.
        """
        value = self.get(*names, default={})
        where = self._called(names)
        require(isinstance(value, Mapping), where, expected="an object", got=repr(value)[:200])
        return Fields(value, where)

    def _called(self, names: tuple[str, ...]) -> str:
        """Name a field in a message: as the file does, or else by its usual name."""
        present = [name for name in names if self.values.get(name) is not None]
        return f"{self.where}: {(present or list(names))[0]}"
