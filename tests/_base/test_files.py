from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lnpjax._base.files import load_arrays, write_atomically


def test_arrays_are_read_by_their_names(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2000, 50)), y=np.arange(3), z=np.float32(2))
    arrays = load_arrays(tmp_path / "a.npz")
    assert {name: array.shape for name, array in arrays.items()} == {
        "x": (2000, 50),
        "y": (3,),
        "z": (),
    }


@pytest.mark.parametrize("shape", [(2**40,), (3, 2**62, 2**62), (-(2**40),)])
def test_an_array_of_more_bytes_than_its_file_is_refused_by_its_header(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    header = io.BytesIO()
    description = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match=r"a\.npz: expected an array of at most the \d+ bytes"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: expected an \.npz file"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["config.json", ".config.json.tmp"])
def test_an_atomic_write_replaces_links(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / name).symlink_to(elsewhere)
    write_atomically(tmp_path / "config.json", "new")
    assert elsewhere.read_text() == "mine"
    assert (tmp_path / "config.json").read_text() == "new"
