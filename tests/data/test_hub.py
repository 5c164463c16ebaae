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


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """A data set as the hub converts it, and which of its files were downloaded."""
    asked = []

    def add(name, stories):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": stories}), tmp_path / name)

    def listed(self, repository, **settings):
        assert settings == {"repo_type": "dataset", "revision": "refs/convert/parquet"}
        files = tmp_path.rglob("*.parquet")
        return [*(file.relative_to(tmp_path).as_posix() for file in files), ".gitattributes"]

    def download(repository, name, **settings):
        assert settings["revision"] == "refs/convert/parquet"
        asked.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return add, asked


def test_converted_files_are_downloaded_as_far_as_they_are_read(converted):
    add, asked = converted
    add("default/train/0000.parquet", ["one", "two"])
    add("default/train/0001.parquet", ["three"])
    add("default/test/0000.parquet", ["never"])
    add("other/train/0000.parquet", ["never"])
    documents = hub_documents("hf:owner/name")
    assert asked == []
    assert [next(documents), next(documents)] == ["one", "two"]
    assert asked == ["default/train/0000.parquet"]
    assert list(documents) == ["three"]
    assert list(hub_documents("hf:owner/name/other")) == ["never"]


def test_a_data_set_that_was_converted_in_part_is_read(converted):
    add, _ = converted
    add("en/partial-train/0000.parquet", ["one"])
    with pytest.warns(UserWarning, match="only the first part of hf:owner/name"):
        assert list(hub_documents("hf:owner/name")) == ["one"]


def test_what_cannot_be_chosen_among_converted_files_is_asked_for(converted):
    add, _ = converted
    add("en/train/0000.parquet", ["one"])
    add("fr/test/0000.parquet", ["un"])
    with pytest.raises(ValueError, match=r"CONFIGURATION with one of \['en', 'fr'\], got 'hf:o"):
        hub_documents("hf:owner/name")
    with pytest.raises(ValueError, match=r"name: expected a data set with a split 'train', got \["):
        hub_documents("hf:owner/name/fr")
    with pytest.raises(ValueError, match=r"name: expected hf:owner/name or hf:.*got 'hf:name'"):
        hub_documents("hf:name")


def test_without_a_network_converted_files_come_from_the_cache(converted, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    add, _ = converted
    add("default/train/0000.parquet", ["one"])
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.warns(UserWarning, match=r"reading the 1 that are cached"):
        assert list(hub_documents("hf:owner/name")) == ["one"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConnectionError, match=r"could not download owner/name .*--data PATH"):
        hub_documents("hf:owner/name")
