"""Every public name has its place in the documentation, and an example."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from pathlib import Path
from types import ModuleType

import pytest

import lnpjax

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if "reproductions" not in path.parts and not path.name.startswith("_")
)

# Classes that hold results: their docstring says what makes them, and that has the example.
HAS_A_MAKER = re.compile(r"\b(made by|from|returned by|see) `|`\S+` makes", flags=re.IGNORECASE)


def namespaces() -> dict[str, ModuleType]:
    """The public modules that say what is public in them, by dotted name."""
    found = {}

    def walk(module: ModuleType) -> None:
        for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
            if info.name.startswith("_"):
                continue
            child = importlib.import_module(f"{module.__name__}.{info.name}")
            if getattr(child, "__all__", None):
                found[child.__name__] = child
            walk(child)

    walk(lnpjax)
    return found


def directives() -> set[str]:
    """What the API pages render: the targets of their ``:::`` lines."""
    pages = (DOCS / "api").glob("*.md")
    return {
        name
        for page in pages
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), flags=re.MULTILINE)
    }


def public_names(namespace: str) -> list[str]:
    """What a module exports; what it defines itself, where it does not say."""
    module = importlib.import_module(namespace)
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == namespace
    ]
    return [f"{namespace}.{name}" for name in getattr(module, "__all__", defined)]


NAMESPACES = namespaces()
NAMES = sorted({name for page in {*NAMESPACES, *directives()} for name in public_names(page)})


def resolve(dotted: str):
    """The object of a dotted name, the longest importable prefix first."""
    parts = dotted.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:stop]))
        except ImportError:
            continue
        for attribute in parts[stop:]:
            value = getattr(value, attribute)
        return value
    raise ImportError(dotted)


def test_there_are_namespaces():
    assert {"lnpjax.kernel", "lnpjax.shells", "lnpjax.lens", "lnpjax.spectra"} <= set(NAMESPACES)


def test_every_namespace_has_a_page():
    """A namespace is rendered itself, or by the page of the one that it lies in."""
    shown = directives()
    missing = [
        name
        for name in NAMESPACES
        if not any(name == page or name.startswith(f"{page}.") for page in shown)
    ]
    assert missing == []


@pytest.mark.parametrize("dotted", NAMES)
def test_public_name_is_documented(dotted):
    value = resolve(dotted)
    if isinstance(value, ModuleType):
        assert inspect.getdoc(value)
        return
    if not (inspect.isroutine(value) or inspect.isclass(value)) or typing.get_origin(value):
        return  # a constant or an alias of types: its docstring is text under its assignment
    text = inspect.getdoc(value) or ""
    assert text.strip(), f"{dotted} has no docstring"
    has_example = ">>>" in text or (inspect.isclass(value) and HAS_A_MAKER.search(text))
    assert has_example, f"the docstring of {dotted} has no example"


def test_every_top_level_name_is_in_the_table():
    table = (DOCS / "api" / "index.md").read_text()
    hidden = [
        name
        for name in lnpjax.__all__
        if not name.startswith("_")
        and not isinstance(getattr(lnpjax, name), ModuleType)
        and f"`{name}`" not in table
    ]
    assert hidden == []


def test_names_in_the_pages_exist():
    """What the prose calls ``lnpjax.x.y``, in code or as the target of a link, can be had."""
    pattern = re.compile(r"(?<![\w./-])lnpjax(?:\.[A-Za-z_]\w*)+")
    dead = {}
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        for dotted in sorted(set(pattern.findall(page.read_text()))):
            try:
                resolve(dotted)
            except (ImportError, AttributeError):
                dead.setdefault(str(page.relative_to(ROOT)), []).append(dotted)
    assert dead == {}


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    lost = [
        str(path.relative_to(DOCS))
        for path in PAGES
        if str(path.relative_to(DOCS)) not in navigation
    ]
    assert lost == []
