"""Write the gallery of reproductions: a hook of mkdocs.

Every folder of results (`docs/reproductions/NAME-PRESET/`, as `lnpjax reproduce` leaves it) becomes
a page with its command, its figures and its claims, and a row of the gallery's index. What was
found comes from the folder's `claims.json` and `claims.md`; what the experiment is, from its own
metadata in the registry `lnpjax.experiments`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from lnpjax import experiments
from lnpjax.experiments._harness.tables import STYLES

RESULTS = Path(__file__).parent / "reproductions"
VERDICTS = tuple(STYLES)
PAPERS = {
    "Spectral Reach": "../papers/spectral-reach.md",
    "NTK Lens": "../papers/ntk-lens.md",
    "Spectral Lens": "../papers/spectral-lens.md",
    "Spectral Shells": "../papers/spectral-shells.md",
}
SHOWN = (".png", ".json", ".gz", ".npz")


@dataclasses.dataclass(frozen=True)
class Results:
    """One folder of results.

    Attributes:
        folder: where it lies.
        found: what its `claims.json` holds.
        about: what the registry says of the experiment.
    """

    folder: Path
    found: Mapping[str, Any]
    about: Any

    @property
    def title(self) -> str:
        """What was reproduced, with the paper, its figures and the preset."""
        return self.found["title"]

    @property
    def tables(self) -> str:
        """The claims and observations, as Markdown tables with a line on how to read them."""
        return (self.folder / "claims.md").read_text().partition("\n")[2].strip()

    @property
    def verdicts(self) -> Counter[str]:
        """How many claims met which fate."""
        return Counter(claim["verdict"] for claim in self.found["claims"])

    @property
    def figures(self) -> list[Path]:
        """The pictures in the folder; first those that are named after a figure of the paper."""

        def place(path: Path) -> tuple[bool, bool, str]:
            return not path.stem.startswith("figure"), path.stem != "scaling", path.name

        return sorted(self.folder.rglob("*.png"), key=place)

    @property
    def command(self) -> str:
        """What makes the results."""
        words = ["lnpjax", "reproduce", self.about.name, "--preset", self.found["preset"]]
        config = json.loads((self.folder / "config.json").read_text())
        return " ".join(words + (["--data", "DIR"] if "image_sets" in config else []))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the gallery's pages to the site."""
    gallery = _all_results()
    files.append(File.generated(config, "reproductions/index.md", content=_index(gallery)))
    for results in gallery:
        place = f"reproductions/{results.folder.name}"
        files.append(File.generated(config, f"{place}/index.md", content=_page(results)))
        for source in sorted(results.folder.rglob("*")):
            uri = f"{place}/{source.relative_to(results.folder).as_posix()}"
            shown = source.is_file() and source.suffix in SHOWN
            if shown and files.get_file_from_path(uri) is None:
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


def _all_results() -> list[Results]:
    """The folders of results, in the order of the registry."""
    order = list(experiments.FOLDERS)
    gallery = []
    for claims in sorted(RESULTS.glob("*/claims.json")):
        found = json.loads(claims.read_text())
        gallery.append(Results(claims.parent, found, experiments.experiment(found["experiment"])))
    return sorted(gallery, key=lambda results: order.index(results.about.name))


def _readme(about: Any) -> str:
    """What the README of the experiment's folder says, without its title and pictures."""
    module = importlib.import_module(about.measure.__module__)
    lines = (Path(module.__file__ or "").parent / "README.md").read_text().splitlines()[1:]
    return "\n".join(line for line in lines if not line.startswith("![")).strip()


def _index(gallery: list[Results]) -> str:
    lines = [
        "# Reproductions",
        "",
        "Experiments of the papers, run again. Each claim is judged by estimates with intervals,",
        "which must lie in a region that was stated before the measurement. It **holds** where",
        "all intervals lie inside, **does not hold** where one lies outside, and from an interval",
        "that spans an edge nobody **can tell**. Where a run lacks what a claim needs, as networks",
        "as wide as the paper's, the **set-up is short of the paper**: that says nothing about the",
        "claim. Every rule was tried on synthetic data in which the claim is true, and in which it",
        "is false.",
        "",
        "```sh",
        "lnpjax reproduce random-features --preset smoke  # seconds: shows that it works",
        "lnpjax reproduce random-features --preset cpu    # minutes to hours on two cores",
        "lnpjax reproduce random-features --preset paper  # the paper's own sizes",
        "lnpjax reproduce --judge docs/reproductions/random-features-cpu  # the rows, once more",
        "```",
        "",
        "A run that was stopped goes on where it was. `--data DIR` names a folder with the image",
        "sets `mnist`, `fashion_mnist` and `cifar10` as they are distributed; without it,",
        "scikit-learn's digits serve.",
        "",
        f"| experiment | what | {' | '.join(VERDICTS)} |",
        f"|---|---|{'---|' * len(VERDICTS)}",
    ]
    for results in gallery:
        counts = " | ".join(str(results.verdicts[verdict]) for verdict in VERDICTS)
        name = results.folder.name
        lines.append(f"| [{name}]({name}/index.md) | {results.title} | {counts} |")
    for results in gallery:
        name = results.folder.name
        for figure in results.figures[:1]:
            picture = f"{name}/{figure.relative_to(results.folder).as_posix()}"
            lines += ["", f"## {name}", "", f"[![{results.title}]({picture})]({name}/index.md)"]
    return "\n".join(lines) + "\n"


def _page(results: Results) -> str:
    paper = PAPERS[results.about.paper]
    lines = [
        f"# {results.title}",
        "",
        f"From *{results.about.paper}*: [its equations, and where they are computed](../{paper}).",
        "",
        "```sh",
        results.command,
        f"lnpjax reproduce --judge docs/reproductions/{results.folder.name}",
        "```",
        "",
        _readme(results.about),
        "",
        "## Claims",
        "",
        results.tables,
        "",
        "## Figures",
        "",
    ]
    for figure in results.figures:
        name = figure.relative_to(results.folder).as_posix()
        label = figure.stem.replace("_", " ").capitalize()
        lines += [f"![{label}]({name})", f"*{label}.*", ""]
    lines += ["## Made with", ""]
    files = [path.name for path in sorted(results.folder.iterdir()) if path.suffix in SHOWN]
    lines += [f"- [{name}]({name})" for name in files]
    return "\n".join(lines) + "\n"
