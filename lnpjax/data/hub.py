"""Documents of data sets on the Hugging Face hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lnpjax._base.checks import import_extra, require
from lnpjax.data.sources import read_documents

HUB_DATASETS = {"simplestories": "SimpleStories/SimpleStories"}
"""Short names of data sets on the Hugging Face hub."""
PREFIX = "hf:"
"""What the name of something on the hub begins with."""
PARQUET_BRANCH = "refs/convert/parquet"
"""Where the hub keeps every data set as parquet files: CONFIGURATION/SPLIT/0000.parquet."""
_CONVERTED = re.compile(rf"{PREFIX}(?P<repository>[\w.-]+/[\w.-]+)(/(?P<configuration>[^/]+))?")
_INSTEAD = "download its parquet files by other means and pass their folder: --data PATH"


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
        name: a key of `HUB_DATASETS`, any `owner/name` whose own parquet files carry the split in
            their names, or ``hf:owner/name`` for the parquet files that the hub makes of every data
            set, ``hf:owner/name/CONFIGURATION`` where it has several. Of the latter, a file is
            downloaded when its first document is asked for.
        split: which split.
        text_field: the column that holds the text (see `read_documents`).
        cache_dir: where downloads are kept; None for huggingface_hub's own cache.

    Returns:
        An iterator of documents.

    Raises:
        ConnectionError: if the data set is neither cached nor reachable; the message says what
            failed and how to train from files instead.
        ValueError: if `name` is not of such a form, the data set has no complete parquet files of
            that split, or several configurations and none is named.
        ImportError: if huggingface_hub is missing.

    Example:
        >>> hub_documents("no-such-name")
        Traceback (most recent call last):
            ...
        ValueError: name: expected 'simplestories' or owner/name on the Hugging Face hub, got
            'no-such-name'
    """
    if name.startswith(PREFIX):
        return _converted_documents(name, split, text_field, cache_dir)
    repository = HUB_DATASETS.get(name, name)
    require(
        re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is not None,
        "name",
        expected=f"{', '.join(map(repr, HUB_DATASETS))} or owner/name on the Hugging Face hub",
        got=repr(name),
    )
    pattern = f"*{split}*.parquet"
    folder = download_snapshot(
        repository,
        repo_type="dataset",
        patterns=(pattern,),
        instead=_INSTEAD,
        cache_dir=cache_dir,
    )
    shards = sorted(
        f for f in folder.rglob("*.parquet") if fnmatch(f"{f.relative_to(folder)}", pattern)
    )
    require(
        bool(shards) and not _missing_shards(shards),
        "name",
        expected=f"all parquet files of the split {split!r} of {repository}",
        got=f"{[shard.name for shard in shards]}; {_INSTEAD}",
    )
    return (text for shard in shards for text in read_documents(shard, text_field=text_field))


def _converted_documents(
    name: str, split: str, text_field: str | None, cache_dir: str | Path | None
) -> Iterator[str]:
    match = _CONVERTED.fullmatch(name)
    expected = f"{PREFIX}owner/name or {PREFIX}owner/name/CONFIGURATION"
    require(match is not None, "name", expected=expected, got=repr(name))
    assert match is not None
    hub = import_extra("huggingface_hub", extra="run", purpose="loading from the hub")
    repository = match["repository"]
    files = _converted_files(hub, repository, cache_dir)
    configuration = _choose_configuration(name, match["configuration"], files)
    shards = [file for file in files if file.startswith(f"{configuration}/{split}/")]
    partial = [file for file in files if file.startswith(f"{configuration}/partial-{split}/")]
    if partial and not shards:
        warnings.warn(f"data: the hub has converted only the first part of {name}", stacklevel=3)
        shards = partial
    splits = sorted({file.split("/")[1] for file in files if file.startswith(f"{configuration}/")})
    require(bool(shards), "name", expected=f"a data set with a split {split!r}", got=splits)

    def documents() -> Iterator[str]:
        for shard in shards:
            with _connected(repository, "data", _INSTEAD):
                path = hub.hf_hub_download(
                    repository,
                    shard,
                    repo_type="dataset",
                    revision=PARQUET_BRANCH,
                    cache_dir=cache_dir,
                )
            yield from read_documents(path, text_field=text_field)

    return documents()


def _converted_files(hub: Any, repository: str, cache_dir: str | Path | None) -> list[str]:
    """List the parquet files of a data set; without a network, those that are cached."""
    try:
        listed = hub.HfApi().list_repo_files(
            repository, repo_type="dataset", revision=PARQUET_BRANCH
        )
    except Exception:
        folder = download_snapshot(
            repository,
            repo_type="dataset",
            patterns=(),
            revision=PARQUET_BRANCH,
            instead=_INSTEAD,
            cache_dir=cache_dir,
        )
        listed = [file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")]
        warnings.warn(
            f"data: the hub could not be asked for the files of {repository}; reading the "
            f"{len(listed)} that are cached",
            stacklevel=4,
        )
    return sorted(file for file in listed if re.fullmatch(r"[^/]+/[^/]+/[^/]+\.parquet", file))


def _choose_configuration(name: str, wanted: str | None, files: Sequence[str]) -> str:
    present = sorted({file.split("/")[0] for file in files})
    if wanted is None:
        wanted = "default" if "default" in present or len(present) != 1 else present[0]
    require(
        wanted in present,
        "name",
        expected=f"{PREFIX}owner/name/CONFIGURATION with one of {present}",
        got=repr(name),
    )
    return wanted


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
    with _connected(repository, "data" if repo_type == "dataset" else "source", instead):
        snapshot = hub.snapshot_download(
            repository,
            repo_type=repo_type,
            allow_patterns=list(patterns),
            revision=revision,
            cache_dir=cache_dir,
        )
    return Path(snapshot)


@contextmanager
def _connected(repository: str, argument: str, instead: str) -> Iterator[None]:
    try:
        yield
    # The hub client raises errors of several HTTP libraries; all of them mean the same here.
    except Exception as error:
        raise ConnectionError(
            f"{argument}: could not download {repository} from the Hugging Face hub "
            f"({type(error).__name__}: {' '.join(str(error).split())}). "
            f"Connect to the network and try again, or {instead}"
        ) from error


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
