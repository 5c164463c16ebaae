"""Models on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lnpjax._base.checks import require
from lnpjax.data.hub import PREFIX, download_snapshot

_NAME = re.compile(rf"{PREFIX}(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
WEIGHTS = (("model*.safetensors",), ("pytorch_model*.bin",))
"""The files that hold weights, the better ones first: a repository may have both."""
OTHERS = ("config.json", "tokenizer.json")


def download_model(source: str, *, cache_dir: str | Path | None = None) -> Path:
    """Download what is needed of a model on the Hugging Face hub: once, then it is cached.

    Args:
        source: ``hf:owner/name`` or ``hf:owner/name@revision``, with a branch, tag or commit.
        cache_dir: where downloads are kept; None for huggingface_hub's own cache.

    Returns:
        The folder.

    Raises:
        ValueError: if `source` is not of that form.
        FileNotFoundError: if the repository has no weights that can be read.
        ConnectionError: if it is neither cached nor reachable.
        ImportError: if huggingface_hub is missing.

    Example:
        >>> download_model("hf:pythia-14m")
        Traceback (most recent call last):
            ...
        ValueError: source: expected hf:owner/name or hf:owner/name@revision, got 'hf:pythia-14m'
    """
    match = _NAME.fullmatch(source)
    expected = f"{PREFIX}owner/name or {PREFIX}owner/name@revision"
    require(match is not None, "source", expected=expected, got=repr(source))
    assert match is not None
    for weights in WEIGHTS:
        indexes = [f"{name.replace('*', '')}.index.json" for name in weights]
        folder = download_snapshot(
            match["repository"],
            repo_type="model",
            patterns=(*OTHERS, *weights, *indexes),
            revision=match["revision"],
            instead="download its files by other means and pass their folder",
            cache_dir=cache_dir,
        )
        if _any_of(folder, weights):
            return folder
    names = " or ".join(name for weights in WEIGHTS for name in weights)
    expected = f"a model with {names}"
    require(False, "source", expected=expected, got=source, error=FileNotFoundError)
    raise AssertionError


def _any_of(folder: Path, patterns: Iterable[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))
