"""The project as a whole: formatting, lint, types, the README's code, and what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_links_exist():
    targets = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


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
