from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from lnpjax.data.sources import (
    read_documents,
    split_documents,
    standard_library_documents,
    take_bytes,
)

DOCUMENTS = ["Once upon a time.", "Ein Märchen.\n\nZweiter Absatz.", "昔々", "The end."]


def write_txt(path: Path, documents: list[str]) -> None:
    path.write_text("".join(f"{document}\n<|endoftext|>\n" for document in documents))


def write_jsonl(path: Path, documents: list[str], field: str = "story") -> None:
    path.write_text(
        "".join(json.dumps({"id": 1, field: document}) + "\n" for document in documents)
    )


def write_parquet(
    path: Path, documents: list[str | None], column: str = "text", row_group_size: int = 2
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"id": list(range(len(documents))), column: documents})
    pq.write_table(table, path, row_group_size=row_group_size)


def write_csv(path: Path, documents: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "text"), *enumerate(documents)])


def write_arrow(
    path: Path, documents: list[str], column: str = "text", kind: str = "new_stream"
) -> None:
    """As `datasets.save_to_disk` does: a stream of several batches."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"id": list(range(len(documents))), column: documents})
    with getattr(pa.ipc, kind)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS = {
    ".txt": write_txt,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".arrow": write_arrow,
}


def compress_zst(content: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(content, codec="zstd", asbytes=True)


COMPRESSIONS = {".gz": gzip.compress, ".zst": compress_zst}


@pytest.mark.parametrize("extension", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path, extension):
    path = tmp_path / f"stories{extension}"
    WRITERS[extension](path, DOCUMENTS)
    assert list(read_documents(path)) == DOCUMENTS


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b").mkdir()
    write_txt(tmp_path / "c.txt", DOCUMENTS[3:])
    write_jsonl(tmp_path / "b" / "z.jsonl", DOCUMENTS[1:3])
    write_parquet(tmp_path / "a.parquet", DOCUMENTS[:1])
    (tmp_path / "LICENSE").write_text("passed over")
    assert list(read_documents(tmp_path)) == DOCUMENTS


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_separator_is_found_across_chunks(size):
    text = "".join(f"{document}\n<|endoftext|>\n" for document in DOCUMENTS) + "cut off he"
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(split_documents(chunks)) == DOCUMENTS
    assert list(split_documents(chunks, drop_cut=False)) == [*DOCUMENTS, "cut off he"]


def test_a_text_without_a_separator_is_one_document(tmp_path):
    (tmp_path / "book.txt").write_text("A whole book.\n")
    assert list(read_documents(tmp_path / "book.txt")) == ["A whole book."]


def test_blank_lines_can_separate_documents(tmp_path):
    (tmp_path / "poems.txt").write_text("one\ntwo\n\n\n\nthree\n\n")
    path = tmp_path / "poems.txt"
    assert list(read_documents(path, separator="\n\n")) == ["one\ntwo", "three"]


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_blank_lines_separate_documents_whichever_system_wrote_them(tmp_path, ends):
    path = tmp_path / "poems.txt"
    path.write_bytes("one\ntwo\n\nthree".replace("\n", ends).encode())
    for separator in ("\n\n", ends * 2):
        documents = list(read_documents(path, separator=separator, drop_cut=False))
        assert documents == ["one\ntwo", "three"]
    # The two characters of one line end may come in two chunks.
    assert list(split_documents(["a\r", "\n\r", "\nb"], separator="\n\n", drop_cut=False)) == [
        "a",
        "b",
    ]


ENCODINGS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("extension", [".txt", ".jsonl", ".csv"])
def test_a_byte_order_mark_says_how_to_read_and_is_no_text(tmp_path, extension, encoding):
    path = tmp_path / f"stories{extension}"
    WRITERS[extension](path, DOCUMENTS)
    text = path.read_bytes().decode()
    path.write_bytes(ENCODINGS[encoding] + text.encode(encoding))
    assert list(read_documents(path)) == DOCUMENTS


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("extension", [".txt", ".jsonl", ".csv"])
def test_compressed_text_is_read_next_to_other_text(tmp_path, extension, compression):
    if compression == ".zst":
        pytest.importorskip("pyarrow")
    WRITERS[extension](tmp_path / f"a{extension}", DOCUMENTS[:2])
    WRITERS[extension](tmp_path / f"b{extension}", DOCUMENTS[2:])
    content = (tmp_path / f"b{extension}").read_bytes()
    (tmp_path / f"b{extension}").unlink()
    compressed = tmp_path / f"b{extension}{compression}"
    compressed.write_bytes(COMPRESSIONS[compression](content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_documents(tmp_path)) == DOCUMENTS
    # Beside what it was made from, it is a copy.
    (tmp_path / f"b{extension}").write_bytes(content)
    with pytest.warns(UserWarning, match=rf"left out b\..*{compression}, the compressed copy of b"):
        assert list(read_documents(tmp_path)) == DOCUMENTS
    compressed.write_bytes(compressed.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"path: expected a whole (gzip|zst) file, got .*b"):
        list(read_documents(compressed))


def test_a_zst_file_of_several_frames_is_read_whole(tmp_path):
    pytest.importorskip("pyarrow")
    frames = [compress_zst(f"{document}<|endoftext|>".encode()) for document in DOCUMENTS]
    (tmp_path / "a.txt.zst").write_bytes(b"".join(frames))
    assert list(read_documents(tmp_path)) == DOCUMENTS


def test_without_pyarrow_the_line_to_install_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("a.jsonl.zst", "a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ImportError, match=rf"{name} needs .*pip install 'lnpjax\[run\]'"):
            read_documents(tmp_path / name)


@pytest.mark.parametrize("kind", ["new_stream", "new_file"])
def test_arrow_files_and_streams_are_read(tmp_path, kind):
    write_arrow(tmp_path / "a.arrow", DOCUMENTS, kind=kind)
    assert list(read_documents(tmp_path)) == DOCUMENTS
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"path: expected an Arrow file or stream, got .*a\.arrow"):
        list(read_documents(tmp_path))


def test_what_datasets_writes_next_to_its_files_is_no_data(tmp_path):
    write_arrow(tmp_path / "data-00000-of-00002.arrow", DOCUMENTS[:3])
    write_arrow(tmp_path / "data-00001-of-00002.arrow", DOCUMENTS[3:])
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_documents(tmp_path)) == DOCUMENTS
    write_arrow(tmp_path / "cache-0123456789abcdef.arrow", DOCUMENTS)
    with pytest.warns(UserWarning, match=r"left out cache-.*, a cache of datasets"):
        assert list(read_documents(tmp_path)) == DOCUMENTS


def test_splits_that_are_read_as_one_are_told(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write_arrow(tmp_path / split / "data-00000-of-00001.arrow", DOCUMENTS)
    with pytest.warns(UserWarning, match=r"several splits \(train, test\) of .* name the file or"):
        assert list(read_documents(tmp_path)) == DOCUMENTS * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_documents(tmp_path / "train")) == DOCUMENTS


def test_values_between_commas_hold_quotes_line_ends_and_long_texts(tmp_path):
    long = "word " * 40_000 + "end"  # longer than what Python's reader takes by itself
    path = tmp_path / "a.csv"
    path.write_bytes(f'text,n\r\n"a ""b"",\r\nc",1\r\n\r\n{long},2\r\n,3'.encode())
    usual = csv.field_size_limit()
    assert list(read_documents(path)) == ['a "b",\nc', long]
    assert csv.field_size_limit() == usual


def test_hidden_files_and_folders_are_not_read(tmp_path):
    for name in (".ipynb_checkpoints/a-checkpoint.txt", "b/.cache/c/d.txt", "._a.txt", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read_documents(tmp_path)) == ["a.txt"]
    hidden = tmp_path / ".ipynb_checkpoints"  # named by the user, it is meant
    assert list(read_documents(hidden)) == [".ipynb_checkpoints/a-checkpoint.txt"]


def test_what_a_folder_holds_besides_is_said(tmp_path):
    for name in ("a.txt", "b.TXT", "c.doc", "d.doc", "e.tar.zst", "README.md", "LICENSE"):
        (tmp_path / name).write_text(name)
    with pytest.warns(UserWarning, match=r"left out 2 ending in '\.doc'; 1 ending in '\.zst'$"):
        assert list(read_documents(tmp_path)) == ["a.txt", "b.TXT"]


def test_a_file_cut_inside_a_character_is_read(tmp_path):
    (tmp_path / "cut.txt").write_bytes("Märchen<|endoftext|>Mä".encode()[:-1])
    assert list(read_documents(tmp_path / "cut.txt", drop_cut=False)) == ["Märchen", "M"]


def test_empty_and_missing_texts_are_skipped(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["one", None, "  ", "two"])
    (tmp_path / "b.jsonl").write_text('{"text": null}\n\n{"text": "three"}\n{"text": ""}\n')
    assert list(read_documents(tmp_path)) == ["one", "two", "three"]


def test_half_a_surrogate_pair_can_be_encoded(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "a\ud800b"}')
    assert list(read_documents(tmp_path)) == ["a?b"]


def test_a_named_field_wins(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "no", "body": "yes"}')
    assert list(read_documents(tmp_path, text_field="body")) == ["yes"]


def test_take_bytes_counts_bytes_and_cuts_between_characters():
    assert list(take_bytes(DOCUMENTS, None)) == DOCUMENTS
    assert list(take_bytes(["é", "é", "e"], 4)) == ["é", "é"]
    assert list(take_bytes(["é", "é", "e"], 5)) == ["é", "é", "e"]
    assert list(take_bytes(["é", "é", "e"], 9)) == ["é", "é", "e"]
    assert list(take_bytes(["ab", "long", "c"], 4)) == ["ab", "lo"]
    assert list(take_bytes(["aéé"], 4)) == ["aé"]
    assert list(take_bytes(["a", "é"], 2)) == ["a"]


def test_nothing_is_read_past_the_budget():
    def documents():
        yield "abc"
        raise AssertionError("read past the budget")

    assert list(take_bytes(documents(), 3)) == ["abc"]


def test_the_standard_library_is_read_in_a_fixed_order_within_its_budget():
    first = "".join(standard_library_documents(max_bytes=100_000))
    assert first == "".join(standard_library_documents(max_bytes=100_000))
    assert 100_000 - 4 < len(first.encode()) <= 100_000
    assert "".join(standard_library_documents(max_bytes=200_000)).startswith(first)


def test_the_standard_library_leaves_out_tests_and_installed_packages(tmp_path, monkeypatch):
    kept = ["abc.py", "json/decoder.py"]
    skipped = [
        "test/test_abc.py",
        "unittest/test/a.py",
        "site-packages/numpy/b.py",
        "idlelib/c.py",
        "_sysconfigdata__linux.py",
    ]
    for name in kept + skipped:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert list(standard_library_documents()) == [f"# {name}" for name in kept]


def test_an_interpreter_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"data: expected an interpreter .*no \.py file"):
        standard_library_documents()


BAD_FILES = {
    "notes.doc": (
        b"a,b",
        r"path: expected a file ending in \.txt, \.jsonl, \.csv, .*got .*doc",
    ),
    "fields.csv": (b"a,b\n1,2\n", r"text_field: .*got only 'a', 'b' in .*fields\.csv"),
    "empty.csv": (b"", r"text_field: expected 'text' or 'story', got only nothing in .*empty"),
    "ragged.csv": (b"text,b\n1,2\n1\n", r"expected 2 fields in each row.*got 1 in .*line 3"),
    "open.csv": (b'text\n"one\ntwo\n', r"comma-separated values, got .*line 4 \(unexpected end"),
    "no.csv.zst": (b"text", r"path: expected a whole zst file, got .*no\.csv\.zst"),
    "deep.jsonl": (b"[" * 200_000, r"one JSON object per line, got .*line 1"),
    "empty.arrow": (b"", r"path: expected an Arrow file or stream, got .*empty\.arrow"),
    "broken.arrow": (b"ARROW1\0\0 no", r"path: expected an Arrow file or stream, got .*broken"),
    "noise.arrow": (b"\xff" * 99, r"path: expected an Arrow file or stream, got .*noise"),
    "latin.txt": ("Mä rchen".encode("latin-1"), r"path: expected UTF-8 text, .*got .*latin\.txt"),
    "wide.txt": (
        "Once.".encode("utf-16-le"),
        r"expected UTF-8 .* byte-order mark, got .*wide\.txt",
    ),
    "wide.jsonl": (
        b'{"text": "Once."}'.decode().encode("utf-16-be"),
        r"expected UTF-8 .* byte-order mark, got .*wide\.jsonl",
    ),
    "no.txt.gz": (b"text", r"path: expected a whole gzip file, got .*no\.txt\.gz"),
    "broken.jsonl": (b'{"text": "a"}\n{"te', r"one JSON object per line, got .*line 2"),
    "list.jsonl": (b"[1, 2]\n", r"one JSON object per line, got list in .*line 1"),
    "number.jsonl": (b'{"text": 3}\n', r"text_field: .*got 'text', which holds int in .*line 1"),
    "fields.jsonl": (
        b'{"title": "a", "body": "b"}\n',
        r"text_field: expected 'text' or 'story', got only 'body', 'title' in .*line 1",
    ),
    "broken.parquet": (b"PAR1 no", r"path: expected a parquet file, got .*broken\.parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_what_was_expected(tmp_path, name):
    if name.endswith((".parquet", ".arrow", ".zst")):
        pytest.importorskip("pyarrow")
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_documents(tmp_path / name))


def test_a_missing_column_names_those_present(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["one"], column="body")
    with pytest.raises(
        ValueError, match=r"expected 'text' or 'story', got only 'body', 'id' in .*a\.parquet"
    ):
        list(read_documents(tmp_path))
    with pytest.raises(ValueError, match=r"text_field: expected 'title', got only 'body', 'id'"):
        list(read_documents(tmp_path, text_field="title"))
    with pytest.raises(ValueError, match=r"a column of strings, got 'id', a column of int64"):
        list(read_documents(tmp_path, text_field="id"))


def test_bad_paths_and_arguments_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: expected an existing file .*no-such"):
        read_documents(tmp_path / "no-such")
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"at least one file ending in .*got .* with '\.png'"):
        read_documents(tmp_path)
    with pytest.raises(ValueError, match="separator: expected a non-empty string"):
        read_documents(tmp_path, separator="")
    with pytest.raises(ValueError, match="separator: expected a non-empty string"):
        split_documents(["a"], separator="")
    with pytest.raises(ValueError, match=r"max_bytes: expected an integer >= 1.*got 0"):
        take_bytes(["a"], 0)


@pytest.mark.skipif(
    not os.environ.get("LNPJAX_DATA"), reason="needs the real data folder named by LNPJAX_DATA"
)
def test_tinystories_holds_2316_whole_stories():
    path = Path(os.environ["LNPJAX_DATA"]) / "tinystories/tinystories_train_first_2MiB.txt"
    stories = list(read_documents(path))
    assert len(stories) == 2316
    assert stories[0].startswith("One day, a little girl named Lily found a needle")
    assert len(list(read_documents(path, drop_cut=False))) == 2317


@pytest.mark.parametrize("separator", ["|", "\n\n", "<|endoftext|>"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_documents_do_not_depend_on_where_chunks_end(separator: str, size: int) -> None:
    text = separator.join(["one\n", "", "\ntwo three ", separator[:-1], "four" + separator[:1]])
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    for drop_cut in (True, False):
        whole = list(split_documents([text], separator=separator, drop_cut=drop_cut))
        assert list(split_documents(chunks, separator=separator, drop_cut=drop_cut)) == whole


def test_a_long_text_without_separators_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_bytes(b" \n" + b"abc " * 9_000_000 + b"\xff")  # a wrong byte at its end
    documents = read_documents(file, longest=100)
    assert list(take_bytes(documents, 10)) == ["abc abc ab"]
    with pytest.raises(ValueError, match="UTF-8"):
        list(read_documents(file))


@pytest.mark.parametrize("longest", [1, 3, 5, 50])
def test_a_budget_takes_the_same_from_documents_that_are_cut_after_it(
    tmp_path: Path, longest: int
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(f"  a{' ' * 60}b<|endoftext|>cdefgh<|endoftext|>ijk lm")
    for drop_cut in (True, False):
        whole = read_documents(file, drop_cut=drop_cut)
        cut = read_documents(file, drop_cut=drop_cut, longest=longest)
        assert list(take_bytes(cut, longest)) == list(take_bytes(whole, longest))
