from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from lnpjax._base.configs import decode, read_settings


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float | None = None
    steps: int = 3
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected an integer >= 1, got {self.steps}")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    pairs: tuple[tuple[int, int], ...] = ()
    flag: bool = False


def test_plain_values_become_the_dataclass_that_they_were():
    config = Outer("x", Inner(rate=1.0, kind="b"), ((1, 2), (3, 4)), True)
    values = {"name": "x", "inner": {"rate": 1, "kind": "b"}, "pairs": [[1, 2], [3, 4]]}
    assert decode(Outer, values | {"flag": True}, source="test") == config
    assert type(decode(Inner, {"rate": 1}, source="test").rate) is float
    assert decode(Inner, {"rate": None}, source="test") == Inner()


BAD_VALUES = {
    "unknown name": ({"inner": {"step": 3}}, r"inner: .*Inner \(the nearest is steps\), got step$"),
    "name that is no text": ({"inner": {3: 3}}, "inner: expected the fields of Inner, got 3"),
    "missing": ({"name": "absent"}, "name: expected a value, got none"),
    "text for a number": ({"inner": {"steps": "3"}}, "inner.steps: expected an integer, got '3'"),
    "float for an integer": (
        {"inner": {"steps": 1.5}},
        r"inner.steps: expected an integer, got 1\.5",
    ),
    "true for an integer": (
        {"inner": {"steps": True}},
        "inner.steps: expected an integer, got True",
    ),
    "text for a float": ({"inner": {"rate": "fast"}}, "inner.rate: expected a number, got 'fast'"),
    "one for true": ({"flag": 1}, "flag: expected true or false, got 1"),
    "number for a text": ({"name": 3}, "name: expected a text, got 3"),
    "no such choice": ({"inner": {"kind": "c"}}, "inner.kind: expected one of 'a', 'b', got 'c'"),
    "unhashable choice": (
        {"inner": {"kind": []}},
        r"inner.kind: expected one of 'a', 'b', got \[\]",
    ),
    "three of a pair": ({"pairs": [[1, 2, 3]]}, r"pairs\[0\]: .*\[1, 2, 3\]"),
    "number for a section": ({"inner": 3}, "inner: expected Inner, got"),
    "refused by the dataclass": ({"inner": {"steps": 0}}, "inner: steps: expected an integer >= 1"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_value_is_named_with_its_place(case):
    values, message = BAD_VALUES[case]
    values = {"name": "x"} | values
    if values["name"] == "absent":
        del values["name"]
    with pytest.raises(ValueError, match=f"^file: {message}"):
        decode(Outer, values, source="file")


def test_unknown_names_can_be_ignored_and_other_things_than_names_not():
    values = {"name": "x", "colour": 1, "inner": {"colour": 1}}
    assert decode(Outer, values, source="test", refuse_unknown=False) == Outer("x")
    with pytest.raises(ValueError, match="test: expected settings by name, got list"):
        decode(Outer, [], source="test")  # type: ignore[arg-type]


def test_yaml_and_json_give_the_same(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"rate": 5e-3, "preset": "115K", "mesh": null}')
    (tmp_path / "a.yaml").write_bytes(b"rate: 5e-3\r\npreset: 115K\r\nmesh:\r\n")
    expected = {"rate": 5e-3, "preset": "115K", "mesh": None}
    assert read_settings(tmp_path / "a.json") == read_settings(tmp_path / "a.yaml") == expected


BAD_FILES = {
    "a.toml": (b"x = 1", r"config: expected a file ending in \.json, \.yaml, \.yml, got"),
    "cut.json": (b'{"a": ', "config: expected a JSON file, got .*cut.json"),
    "cut.yaml": (b"a: [1", "config: expected a YAML file, got .*cut.yaml"),
    "code.yaml": (b"a: !!python/object/apply:os.getcwd []", "config: expected a YAML file, got .*"),
    "latin.json": (b'{"a": "\xe4"}', "config: expected a JSON file, got .*latin.json"),
    "list.json": (b"[1]", "config: expected settings by name, got list in .*list.json"),
    "empty.yaml": (b"", "config: expected settings by name, got NoneType in .*empty.yaml"),
    "empty.json": (b"", "config: expected a JSON file, got .*empty.json"),
    "deep.json": (b"[" * 200_000, "config: expected a JSON file, got .*deep.json"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_settings(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="config: expected an existing file"):
        read_settings(tmp_path / "none.yaml")
