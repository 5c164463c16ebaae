"""Every notebook runs from top to bottom, and is kept as it ran."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_runs(path, tmp_path):
    """In the interpreter that runs the tests, whatever kernels are installed elsewhere."""
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv = [
        sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
    ]  # fmt: skip
    manager.kernel_spec.env = dict(os.environ)
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        km=manager,
        timeout=600,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises with the traceback of the cell that fails


@every_notebook
def test_is_kept_with_its_results(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    installs, *cells = cells  # the first is for Colab, and is not executed elsewhere
    assert "Colab" in installs.source
    assert cells
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for c in cells for output in c.outputs)
    assert not any(output.output_type == "error" for c in cells for output in c.outputs)
    text = path.read_text()
    assert not [folder for folder in ("/home/", "/root/", "/tmp/", "/Users/") if folder in text]


def test_there_are_notebooks():
    assert NOTEBOOKS
