"""The project as a whole: the README, links into the project, and what `import lnpjax` needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


REPOSITORY = r"(?:github\.com/lnpjax/lnpjax/blob|raw\.githubusercontent\.com/lnpjax/lnpjax)/main/"
COLAB = r"colab\.research\.google\.com/github/lnpjax/lnpjax/blob/main/"
SITE = r"lnpjax\.github\.io/lnpjax/"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "notebooks").glob("*.ipynb"))


def file_of(link: str) -> Path | None:
    """The file of this project that an absolute link leads to; None for links to elsewhere."""
    address, _, _ = link.removeprefix("https://").partition("#")
    if match := re.match(f"(?:{REPOSITORY}|{COLAB})(.+)", address):
        return ROOT / match[1]
    if (match := re.match(f"{SITE}(.+?)/?$", address)) and match[1] != "reproductions":
        page = ROOT / "docs" / match[1]
        return page / "index.md" if page.is_dir() else page.with_suffix(".md")
    return None


@pytest.mark.parametrize(
    ("link", "file"),
    [
        ("https://github.com/lnpjax/lnpjax/blob/main/LICENSE", "LICENSE"),
        ("https://lnpjax.github.io/lnpjax/papers/", "docs/papers/index.md"),
        ("https://lnpjax.github.io/lnpjax/guides/cost/#measured", "docs/guides/cost.md"),
        ("https://arxiv.org/abs/2605.31244", None),
    ],
)
def test_links_into_the_project_are_recognised(link, file):
    assert file_of(link) == (file and ROOT / file)


def test_links_into_the_project_lead_to_files():
    links = {
        link for page in PAGES for link in re.findall(r"\]\((https://[^)\s]+)\)", page.read_text())
    }
    files = {file_of(link) for link in links} - {None}
    assert len(files) > 10
    assert [str(file) for file in files if not file.exists()] == []


def test_the_readme_is_one_screen_that_also_works_on_a_package_page():
    assert 4000 <= len(README.encode()) <= 5000
    assert [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link] == []


def test_core_imports_nothing_from_the_extras():
    """`import lnpjax` works where only the core dependencies are installed."""
    extras = (
        "tyro rich matplotlib orbax tokenizers pyarrow huggingface_hub sklearn tensorboardX wandb "
        "neural_tangents frozendict nbclient nbformat"
    )
    script = (
        "import sys; import lnpjax, lnpjax.data, lnpjax.runs\n"
        f"print(sorted(set({extras.split()!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("version", "warns"), [("0.10.2", True), ("0.10.1", False)])
def test_import_warns_of_the_jaxlib_that_computes_wrongly(version, warns):
    script = (
        "import jax, jaxlib, warnings\n"
        f"jaxlib.__version__ = {version!r}\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import lnpjax\n"
        "print([str(w.message) for w in caught if 'jaxlib' in str(w.message)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ("pip install" in done.stdout) == warns, done.stdout + done.stderr
