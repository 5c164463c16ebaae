from __future__ import annotations

import pytest

from lnpjax.data.hub import hub_documents

huggingface_hub = pytest.importorskip("huggingface_hub")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A folder that stands in for a downloaded snapshot, and the arguments it was asked with."""
    asked = {}

    def download(repository, **arguments):
        asked.update(repository=repository, **arguments)
        return str(tmp_path)

    def add(name, stories):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"topic": ["x"] * len(stories), "story": stories}), tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return add, asked


def test_the_shards_of_a_split_are_read_in_order(snapshot):
    add, asked = snapshot
    add("data/train-00001-of-00002.parquet", ["three"])
    add("data/train-00000-of-00002.parquet", ["one", "two"])
    add("data/test-00000-of-00001.parquet", ["never"])
    assert list(hub_documents("simplestories", cache_dir="somewhere")) == ["one", "two", "three"]
    assert asked["repository"] == "SimpleStories/SimpleStories"
    assert asked["repo_type"] == "dataset"
    assert asked["cache_dir"] == "somewhere"


def test_a_split_may_be_a_folder(snapshot):
    add, _ = snapshot
    add("train/0000.parquet", ["one"])
    add("test/0000.parquet", ["never"])
    assert list(hub_documents("owner/name")) == ["one"]


def test_a_half_downloaded_snapshot_is_refused(snapshot):
    add, _ = snapshot
    add("data/train-00000-of-00002.parquet", ["one"])
    with pytest.raises(
        ValueError, match=r"all parquet files of the split 'train' .*got \['train-00000-of-00002"
    ):
        hub_documents("simplestories")


def test_a_data_set_without_parquet_files_is_refused(snapshot):
    with pytest.raises(ValueError, match=r"all parquet files .* got \[\]; download"):
        hub_documents("owner/name")


def test_no_network_gives_one_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError) as caught:
        hub_documents("simplestories", cache_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith("data: could not download SimpleStories/SimpleStories")
    assert "--data PATH" in message
    assert "\n" not in message


def test_whatever_the_client_raises_becomes_the_same_error(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("name resolution\n  failed")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConnectionError, match=r"\(RuntimeError: name resolution failed\)"):
        hub_documents("simplestories")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"name: expected 'simplestories' or owner/name"):
        hub_documents("simple stories")
