"""The layout: levels of imports, public names, and the shape of an experiment's folder."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lnpjax
from lnpjax import experiments

ROOT = Path(lnpjax.__file__).parent
LEVELS = {
    name: level
    for level, names in enumerate(
        (
            "_version status",
            "_base",
            "data parameters runs sharding",
            "jacobian experiments._harness",
            "adapters precision training",
            "decomposition models",
            "spectra",
            "comparison kernel lens recording",
            "pretraining shells theory",
            "plotting validation",
            "experiments inspection",
            "commands",
            "cli",
            "__main__",
        )
    )
    for name in names.split()
}
FILES = {"__init__.py", "config.py", "measure.py", "results.py", "claims.py", "figures.py"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def imported(source: str, modules) -> set[str]:
    """The library's modules that a source imports, wherever in it, type imports included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return {name for name in found if name.split(".")[0] == "lnpjax"}


def unit(module: str) -> str:
    """The package or the single module that has a level."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:2] == ["experiments", "_harness"] else parts[0]


def imports_that_point_up(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if unit(module) != unit(other) and LEVELS[unit(module)] <= LEVELS[unit(other)]
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; empty if none do."""
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for other in sorted(graph.get(module, ())):
            if found := visit(other, (*path, module)):
                return found
        finished.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, ()))), [])


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {
        name: imported(file.read_text(), MODULES) - {name}
        for name, file in MODULES.items()
        if name != "lnpjax"  # the top of the house names its rooms
    }


def test_imports_point_down(graph):
    assert imports_that_point_up(graph) == []


def test_imports_have_no_circle(graph):
    assert circle(graph) == []


def test_nothing_imports_the_top(graph):
    assert [name for name, others in graph.items() if "lnpjax" in others] == []


def test_an_import_that_points_up_and_a_circle_are_found():
    source = "if TYPE_CHECKING:\n    from lnpjax.plotting import plot_run\n"
    up = {"lnpjax.kernel._entk": imported(source, {"lnpjax.plotting": None})}
    assert imports_that_point_up(up) == ["lnpjax.kernel._entk imports lnpjax.plotting"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_dir_shows_what_is_public():
    assert dir(lnpjax) == sorted(lnpjax.__all__)
    for name in lnpjax.__all__:
        getattr(lnpjax, name)
    assert len([name for name in ROOT.glob("*.py") if name.stem != "__init__"]) <= 10


@pytest.mark.parametrize(
    "package",
    [
        *("comparison", "decomposition", "inspection", "jacobian", "kernel", "lens"),
        *("plotting", "runs", "shells", "spectra", "validation"),
    ],
)
def test_a_namespace_shows_what_is_public(package):
    """Its files are private, and its names are those that it lists."""
    space = importlib.import_module(f"lnpjax.{package}")
    assert sorted(name for name in dir(space) if not name.startswith("_")) == sorted(space.__all__)


def test_an_old_name_says_where_it_went():
    for name, place in lnpjax._MOVED.items():
        with pytest.raises(AttributeError, match=re.escape(place)):
            getattr(lnpjax, name)
        *module, last = place.split(".")
        try:
            importlib.import_module(place)
        except ImportError:
            getattr(importlib.import_module(".".join(module)), last)
    with pytest.raises(AttributeError, match=r"no attribute 'sample'$"):
        lnpjax.sample  # noqa: B018


def test_import_loads_neither_interface_nor_networks():
    heavy = "matplotlib rich tyro flax orbax lnpjax.lens lnpjax.plotting lnpjax.runs lnpjax.models"
    script = f"import sys, lnpjax; print(sorted(set({heavy.split()!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", experiments.FOLDERS)
def test_an_experiment_has_the_one_shape(name):
    folder = ROOT / "experiments" / experiments.FOLDERS[name].replace(".", "/")
    assert {file.name for file in folder.iterdir()} >= FILES | {"README.md"}
    experiment = experiments.experiment(name)
    assert experiment.name == name
    assert set(experiment.presets) - {"long"} == {"smoke", "cpu", "paper"}
    assert experiment.figures
    parts = {
        "measure.py": (experiment.measure, experiment.num_units),
        "claims.py": (experiment.judge,),
        "figures.py": (experiment.draw,),
        "config.py": (type(experiment.presets["cpu"]),),
    }
    for file, functions in parts.items():
        assert {function.__module__ for function in functions} == {module_name(folder / file)}
    assert f"lnpjax reproduce {name}" in (folder / "README.md").read_text()


def test_every_folder_of_experiments_is_registered():
    folders = {file.parent for file in (ROOT / "experiments").rglob("config.py")}
    known = {ROOT / "experiments" / path.replace(".", "/") for path in experiments.FOLDERS.values()}
    assert folders == known
