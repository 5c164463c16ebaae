"""The Python of every page of the documentation, executed as a reader would."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "reproductions" not in path.parts
)

_INCLUDE = re.compile(r'^--8<-- "(.+)"$', flags=re.MULTILINE)
_BLOCK = re.compile(
    r"(?:<!-- not executed: (?P<reason>.*?) -->\s*\n)?"
    r"^(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    flags=re.DOTALL | re.MULTILINE,
)


def blocks(page: Path) -> list[tuple[int, str, str | None]]:
    """The Python blocks of a page in order: the line, the code, and why it is not executed.

    A block is left out only after a comment ``<!-- not executed: REASON -->`` of its own.
    """
    text = _INCLUDE.sub(lambda match: (ROOT / match[1]).read_text(), page.read_text())
    return [
        (
            text[: match.start("code")].count("\n"),
            textwrap.dedent(match["code"]),
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]


WITH_CODE = [page for page in PAGES if blocks(page) and not page.name.startswith("_setup")]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_the_page_runs(page, tmp_path, monkeypatch):
    """All Python blocks of one page, in order, as one session in an empty folder."""
    monkeypatch.chdir(tmp_path)
    x64 = jax.config.jax_enable_x64
    session: dict = {"__name__": "page"}
    try:
        for line, code, reason in blocks(page):
            if reason is None:
                exec(compile("\n" * line + code, str(page), "exec"), session)
    finally:
        jax.config.update("jax_enable_x64", x64)


def test_pages_with_code_are_found():
    names = {page.stem for page in WITH_CODE}
    assert {"getting-started", "idea", "estimators", "training", "kernel"} <= names


def test_blocks_are_left_out_only_for_a_reason():
    empty = [
        f"{page.relative_to(ROOT)}:{line}"
        for page in WITH_CODE
        for line, _, reason in blocks(page)
        if reason is not None and len(reason.split()) < 3
    ]
    assert empty == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\na = 1\n```\n", [(1, "a = 1\n", None)]),
        ("    ```python\n    a = 1\n    ```\n", [(1, "a = 1\n", None)]),
        ("<!-- not executed: needs a GPU -->\n```python\na\n```\n", [(2, "a\n", "needs a GPU")]),
        ("```sh\nlnpjax train\n```\n", []),
    ],
    ids=["plain", "indented", "left out", "shell"],
)
def test_blocks_of_a_page(tmp_path, text, expected):
    page = tmp_path / "page.md"
    page.write_text(text)
    assert blocks(page) == expected
