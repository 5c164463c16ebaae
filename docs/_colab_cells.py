"""Give each notebook a badge and a cell that installs the library in Colab."""

import json
from pathlib import Path

REPOSITORY = "lnpjax/lnpjax"
INSTALL = f"""import importlib.util

if importlib.util.find_spec("lnpjax") is None:  # in Colab
    %pip install -q "lnpjax[run] @ git+https://github.com/{REPOSITORY}"
"""

for path in sorted(Path("notebooks").glob("*.ipynb")):
    notebook = json.loads(path.read_text())
    if any("find_spec" in "".join(cell["source"]) for cell in notebook["cells"]):
        continue
    address = (
        f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{path.name}"
    )
    badge = (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
    )
    title = notebook["cells"][0]
    lines = "".join(title["source"]).split("\n", 1)
    text = lines[0] + "\n\n" + badge + "\n" + (lines[1] if len(lines) > 1 else "")
    title["source"] = text.splitlines(keepends=True)
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "install",
        "metadata": {},
        "outputs": [],
        "source": INSTALL.rstrip("\n").splitlines(keepends=True),
    }
    if notebook["nbformat_minor"] < 5:
        del cell["id"]
    notebook["cells"].insert(1, cell)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
