"""Models on the hub: which files are asked for, with a stand-in for the network."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_checkpoints import write_folder

from lnpjax.models import load_checkpoint
from lnpjax.models.checkpoints.hub import download_model

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder that stands in for a repository, and what was asked for and copied."""
    remote, local = tmp_path / "remote", tmp_path / "local"
    remote.mkdir()
    asked = []

    def download(name, *, repo_type, allow_patterns, revision, cache_dir):
        asked.append((name, repo_type, revision))
        local.mkdir(exist_ok=True)
        for file in (file for file in remote.rglob("*") if file.is_file()):
            relative = str(file.relative_to(remote))
            if any(fnmatch(relative, pattern) for pattern in allow_patterns):
                (local / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, local / relative)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return remote, local, asked


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_what_is_needed_of_a_revision_is_downloaded(repository):
    remote, local, asked = repository
    write_folder(remote, "gpt2")
    for other in ("README.md", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"):
        (remote / other).write_text("not needed")
    model = load_checkpoint("hf:owner/tiny-gpt.2@step1000")
    assert asked == [("owner/tiny-gpt.2", "model", "step1000")]
    assert names(local) == {"config.json", "model.safetensors"}
    same = load_checkpoint(remote)
    jax.tree.map(np.testing.assert_array_equal, model.params, same.params)


def test_older_weights_are_downloaded_where_there_are_no_newer_ones(repository):
    remote, local, asked = repository
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (remote / name).write_text("{}")
    assert download_model("hf:owner/name") == local
    assert asked == [("owner/name", "model", None)] * 2
    assert names(local) == names(remote)


def test_shards_come_with_their_index(repository):
    remote, local, _ = repository
    shards = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for name in shards | {"model.safetensors.index.json", "config.json"}:
        (remote / name).write_text("{}")
    download_model("hf:owner/name")
    assert names(local) == names(remote)


def test_a_repository_without_weights_is_refused(repository):
    (repository[0] / "config.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"^source: expected a model with .* got hf:owner/n"
    ):
        load_checkpoint("hf:owner/name")


@pytest.mark.parametrize(
    "source", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:../x@y", "hf:a/b c"]
)
def test_other_names_are_refused(source, repository):
    with pytest.raises(ValueError, match=r"^source: expected hf:owner/name or "):
        load_checkpoint(source)


def test_no_network_is_said_in_one_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = r"^source: could not download a/b .*no route to host.* or download its files by other"
    with pytest.raises(ConnectionError, match=message):
        load_checkpoint("hf:a/b")
