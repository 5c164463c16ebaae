"""Documents of data sets on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from lnpjax._base.checks import import_extra, require
from lnpjax.data.sources import read_documents

HUB_DATASETS = {"simplestories": "SimpleStories/SimpleStories"}
"""Short names of data sets on the Hugging Face hub."""


def hub_documents(
    name: str,
    *,
    split: str = "train",
    text_field: str | None = None,
    cache_dir: str | Path | None = None,
) -> Iterator[str]:
    """Read the documents of a data set on the Hugging Face hub: downloaded once, then cached.

    *Spectral Reach* (B.2.1) trains on SimpleStories: two million short stories.

    Args:
        name: a key of `HUB_DATASETS` or any `owner/name` whose parquet files carry the split in
            their names.
        split: which split.
        text_field: the column that holds the text (see `read_documents`).
        cache_dir: where downloads are kept; None for huggingface_hub's own cache.

    Returns:
        An iterator of documents.

    Raises:
        ConnectionError: if the data set is neither cached nor reachable; the message says what
            failed and how to train from files instead.
        ValueError: if `name` is not of the form `owner/name`, or the data set has no complete
            parquet files of that split.
        ImportError: if huggingface_hub is missing.

    Example:
        >>> hub_documents("no-such-name")
        Traceback (most recent call last):
            ...
        ValueError: name: expected 'simplestories' or owner/name on the Hugging Face hub, got
            'no-such-name'
    """
    repository = HUB_DATASETS.get(name, name)
    require(
        re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is not None,
        "name",
        expected=f"{', '.join(map(repr, HUB_DATASETS))} or owner/name on the Hugging Face hub",
        got=repr(name),
    )
    pattern = f"*{split}*.parquet"
    instead = "download its parquet files by other means and pass their folder: --data PATH"
    folder = download_snapshot(
        repository,
        repo_type="dataset",
        patterns=(pattern,),
        instead=instead,
        cache_dir=cache_dir,
    )
    shards = sorted(
        f for f in folder.rglob("*.parquet") if fnmatch(f"{f.relative_to(folder)}", pattern)
    )
    require(
        bool(shards) and not _missing_shards(shards),
        "name",
        expected=f"all parquet files of the split {split!r} of {repository}",
        got=f"{[shard.name for shard in shards]}; {instead}",
    )
    return (text for shard in shards for text in read_documents(shard, text_field=text_field))


def download_snapshot(
    repository: str,
    *,
    repo_type: str,
    patterns: Sequence[str],
    instead: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download files of a repository on the Hugging Face hub, once; then they are cached.

    Args:
        repository: `owner/name`.
        repo_type: "dataset" or "model".
        patterns: which files.
        instead: what to do without a network, for the message.
        revision: a branch, tag or commit; None for the main branch.
        cache_dir: where downloads are kept; None for huggingface_hub's own cache.

    Returns:
        Their folder.

    Raises:
        ConnectionError: if they are neither cached nor reachable.
        ImportError: if huggingface_hub is missing.

    Example:
        >>> download_snapshot("no/such/model", repo_type="model", patterns=["config.json"],
        ...                   instead="copy it by other means")
        Traceback (most recent call last):
            ...
        ConnectionError: source: could not download no/such/model from the Hugging Face hub ...
    """
    hub = import_extra("huggingface_hub", extra="run", purpose="loading from the hub")
    try:
        snapshot = hub.snapshot_download(
            repository,
            repo_type=repo_type,
            allow_patterns=list(patterns),
            revision=revision,
            cache_dir=cache_dir,
        )
    # The hub client raises errors of several HTTP libraries; all of them mean the same here.
    except Exception as error:
        what = "data" if repo_type == "dataset" else "source"
        raise ConnectionError(
            f"{what}: could not download {repository} from the Hugging Face hub "
            f"({type(error).__name__}: {' '.join(str(error).split())}). "
            f"Connect to the network and try again, or {instead}"
        ) from error
    return Path(snapshot)


def _missing_shards(shards: list[Path]) -> bool:
    # Without a network, a half-downloaded cache looks complete, but names such as
    # train-00000-of-00007 say how many files there should be.
    numbered = [
        match
        for shard in shards
        if (match := re.fullmatch(r"(.*)-\d+-of-(\d+)", str(shard.with_suffix(""))))
    ]
    totals = {match[1]: int(match[2]) for match in numbered}
    return len(numbered) != sum(totals.values())
