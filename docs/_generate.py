"""Write the gallery of reproductions: a hook of mkdocs.

Every folder of results (`docs/reproductions/NAME/`) becomes a page with its command, its figures
and its table of claims, and a row of the gallery's index. What the experiment is comes from the
registry `lnpjax.experiments`, where that can be imported, and else from the results themselves.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
RESULTS = (ROOT / "docs" / "reproductions", ROOT / "benchmarks" / "results")
PRESETS = ("smoke", "cpu", "paper")
VERDICTS = ("holds", "does not hold", "cannot tell")
PAPERS = {
    "Spectral Reach": "../papers/spectral-reach.md",
    "NTK Lens": "../papers/ntk-lens.md",
    "Spectral Lens": "../papers/spectral-lens.md",
    "Spectral shells": "../papers/spectral-shells.md",
}
log = logging.getLogger("mkdocs.hooks.generate")


@dataclasses.dataclass(frozen=True)
class Results:
    """One folder of results.

    Attributes:
        folder: where it lies.
        title: what was reproduced, with the paper and its figures.
        table: the claims, as a Markdown table.
        config: the options it was made with.
        about: what the registry says of the experiment; None where it says nothing.
    """

    folder: Path
    title: str
    table: str
    config: Mapping[str, Any]
    about: Any

    @property
    def experiment(self) -> str:
        """The name that `lnpjax reproduce` takes."""
        return self.folder.name.removesuffix(f"-{self.preset}")

    @property
    def preset(self) -> str:
        """The preset, which the folder's name ends with."""
        last = self.folder.name.rpartition("-")[2]
        return last if last in PRESETS else ""

    @property
    def verdicts(self) -> Counter[str]:
        """How many claims hold, do not, or cannot be told."""
        return Counter(re.findall(r"\| \*\*(.+?)\*\* \|", self.table))

    @property
    def figures(self) -> list[Path]:
        """The pictures in the folder; first those that are named after a figure of the paper."""

        def place(path: Path) -> tuple[bool, bool, str]:
            return not path.stem.startswith("figure"), path.stem != "scaling", path.name

        return sorted(self.folder.rglob("*.png"), key=place)

    @property
    def command(self) -> str:
        """What makes the results."""
        words = ["lnpjax", "reproduce", self.experiment, "--preset", self.preset or "cpu"]
        return " ".join(words + (["--data", "DIR"] if self._needs_data() else []))

    def _needs_data(self) -> bool:
        return bool(re.search(r"MNIST|CIFAR", self.table))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the gallery's pages to the site."""
    found = list(_all_results())
    files.append(File.generated(config, "reproductions/index.md", content=_index(found)))
    for results in found:
        place = f"reproductions/{results.folder.name}"
        files.append(File.generated(config, f"{place}/index.md", content=_page(results)))
        for source in sorted(results.folder.rglob("*")):
            uri = f"{place}/{source.relative_to(results.folder).as_posix()}"
            shown = source.suffix in (".png", ".json", ".jsonl", ".npz")
            if source.is_file() and shown and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(source)))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the gallery's pages into the navigation, in place of its folder."""
    pages = ["reproductions/index.md"]
    pages += [f"reproductions/{results.folder.name}/index.md" for results in _all_results()]
    for entry in config.nav or []:
        if isinstance(entry, dict) and entry.get("Reproductions") == "reproductions/":
            entry["Reproductions"] = pages
    return config


def _all_results() -> Iterator[Results]:
    registry = _registry()
    seen = set()
    for parent in RESULTS:
        for claims in sorted(parent.glob("*/claims.md")):
            folder = claims.parent
            if folder.name in seen:
                continue
            seen.add(folder.name)
            title, _, table = claims.read_text().partition("\n")
            name = re.sub(rf"-({'|'.join(PRESETS)})$", "", folder.name)
            yield Results(
                folder, title.removeprefix("# "), table.strip(), _config(folder), registry.get(name)
            )


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _registry() -> Mapping[str, Any]:
    """The experiments by name, as `lnpjax.experiments` lists them; none where it cannot be had."""
    try:
        module = importlib.import_module("lnpjax.experiments")
        return {name: module.experiment(name) for name in getattr(module, "FOLDERS", ())}
    except ImportError as error:
        log.info("lnpjax.experiments cannot be imported (%s): titles come from the results", error)
        return {}


def _readme(about: Any) -> str:
    """What the README of the experiment's folder says, without its title and pictures."""
    if about is None:
        return ""
    module = importlib.import_module(about.measure.__module__)
    path = Path(module.__file__ or "").parent / "README.md"
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    return "\n".join(line for line in lines if not line.startswith("![")).strip()


def _index(found: list[Results]) -> str:
    lines = [
        "# Reproductions",
        "",
        "Experiments of the papers, run again. Each claim of a paper is judged by a rule that was",
        "written down before the measurement: it holds, does not hold, or cannot be told from what",
        "was measured. A claim that fails at the size of two cores may hold at the paper's; the",
        "page of an experiment says which size was run.",
        "",
        "```sh",
        "lnpjax reproduce random-features --preset smoke  # seconds: shows that it works",
        "lnpjax reproduce random-features --preset cpu    # minutes to hours on two cores",
        "lnpjax reproduce random-features --preset paper  # the paper's own sizes",
        "```",
        "",
        "A run that was stopped goes on where it was. `--data DIR` names a folder with the image",
        "sets `mnist`, `fashion_mnist` and `cifar10` as they are distributed; without it,",
        "scikit-learn's digits serve.",
        "",
        f"| experiment | what | {' | '.join(VERDICTS)} |",
        "|---|---|---|---|---|",
    ]
    for results in found:
        counts = " | ".join(str(results.verdicts[verdict]) for verdict in VERDICTS)
        name = results.folder.name
        lines.append(f"| [{name}]({name}/index.md) | {results.title} | {counts} |")
    for results in found:
        name = results.folder.name
        for figure in results.figures[:1]:
            picture = f"{name}/{figure.relative_to(results.folder).as_posix()}"
            lines += ["", f"## {name}", "", f"[![{results.title}]({picture})]({name}/index.md)"]
    return "\n".join(lines) + "\n"


def _page(results: Results) -> str:
    lines = [f"# {results.title}", ""]
    for paper, page in PAPERS.items():
        if paper in results.title:
            lines += [
                f"From *{paper}*: [its equations, and where they are computed](../{page}).",
                "",
            ]
    expected = getattr(results.about, "expected_time", None)
    lines += ["```sh", results.command, "```", ""]
    if expected:
        lines += [f"Expected time: {expected}.", ""]
    readme = _readme(results.about)
    if readme:
        lines += [readme, ""]
    lines += ["## Claims", "", results.table, "", "## Figures", ""]
    for figure in results.figures:
        name = figure.relative_to(results.folder).as_posix()
        label = figure.stem.replace("_", " ").capitalize()
        lines += [f"![{label}]({name})", f"*{label}.*", ""]
    lines += ["## Made with", ""]
    files = [name for name in ("config.json", "results.jsonl") if (results.folder / name).exists()]
    lines += [f"- [{name}]({name})" for name in files]
    return "\n".join(lines) + "\n"
