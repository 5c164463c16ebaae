"""PyTorch's files: both formats, nanoGPT, and files that would run something."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import weight, write_folder

from lnpjax.models import load_checkpoint
from lnpjax.models.checkpoints.pickles import read_pickle
from lnpjax.models.checkpoints.safetensors import describe_safetensors

STORAGES = {"float32": "FloatStorage", "int64": "LongStorage", "uint8": "ByteStorage"}


@pytest.fixture
def torch(monkeypatch):
    """What a pickle of PyTorch's names, so that one can be written without it."""
    fake, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(fake, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return fake


class Storage:
    def __init__(self, array, key):
        self.array, self.key = array, key


class Tensor:
    """An array that is pickled as PyTorch does; `changes` describe it falsely."""

    def __init__(self, array, **changes):
        self.array, self.changes = np.asarray(array), changes


class Writer(pickle._Pickler):
    def __init__(self, stream, *, legacy):
        super().__init__(stream, protocol=2)
        self.storages, self.legacy = {}, legacy

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        kind = getattr(sys.modules["torch"], STORAGES[obj.array.dtype.name])
        pid = ("storage", kind, obj.key, "cpu", obj.array.size)
        return (*pid, None) if self.legacy else pid

    def reducer_override(self, obj):
        if not isinstance(obj, Tensor):
            return NotImplemented
        array = obj.array
        contiguous = (array.T if obj.changes.get("transposed") else array).copy(order="C")
        storage = Storage(contiguous.reshape(-1), str(len(self.storages)))
        self.storages[storage.key] = storage
        steps = [step // array.itemsize for step in contiguous.strides]
        steps = steps[::-1] if obj.changes.get("transposed") else steps
        described = {"offset": 0, "shape": array.shape, "strides": tuple(steps)} | obj.changes
        arguments = (storage, described["offset"], described["shape"], described["strides"])
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*arguments, False, collections.OrderedDict())


def write(file: Path, content, *, legacy: bool = False) -> None:
    """Write as `torch.save` does: since version 1.6, or before."""
    stream = io.BytesIO()
    writer = Writer(stream, legacy=legacy)
    writer.dump(content)
    if not legacy:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", stream.getvalue())
            for key, storage in writer.storages.items():
                archive.writestr(f"model/data/{key}", storage.array.tobytes())
        return
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, machine)]
    parts += [stream.getvalue(), pickle.dumps(list(writer.storages), 2)]
    for storage in writer.storages.values():
        parts += [storage.array.size.to_bytes(8, "little"), storage.array.tobytes()]
    file.write_bytes(b"".join(parts))


@pytest.mark.parametrize("legacy", [False, True])
def test_arrays_come_back(tmp_path, torch, legacy):
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {
        "state": collections.OrderedDict(
            a=Tensor(table), b=Tensor(table, transposed=True), c=Tensor(np.array(7))
        ),
        "steps": [1, 2.5, None, "text", (True,)],
    }
    content["state"]._metadata = {"version": 1}  # PyTorch sets such an attribute
    write(tmp_path / "model.pt", content, legacy=legacy)
    found = read_pickle(tmp_path / "model.pt")
    np.testing.assert_array_equal(found["state"]["a"].read(), table)
    np.testing.assert_array_equal(found["state"]["b"].read(), table)
    assert found["state"]["c"].read() == 7
    assert found["steps"] == content["steps"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_folder_with_bin_weights_is_the_same_model(tmp_path, torch, legacy):
    tensors = write_folder(tmp_path / "safe", "neox")
    write_folder(tmp_path / "bin", "neox")
    (tmp_path / "bin" / "model.safetensors").unlink()
    state = {name: Tensor(array) for name, array in tensors.items()}
    write(tmp_path / "bin" / "pytorch_model.bin", state, legacy=legacy)
    one, other = load_checkpoint(tmp_path / "safe"), load_checkpoint(tmp_path / "bin")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


NANO = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4, "vocab_size": 5, "bias": False}
NANO_SHAPES = {
    "transformer.wte.weight": (5, 8),
    "transformer.wpe.weight": (4, 8),
    "transformer.h.0.ln_1.weight": (8,),
    "transformer.h.0.attn.c_attn.weight": (24, 8),
    "transformer.h.0.attn.c_proj.weight": (8, 8),
    "transformer.h.0.ln_2.weight": (8,),
    "transformer.h.0.mlp.c_fc.weight": (32, 8),
    "transformer.h.0.mlp.c_proj.weight": (8, 32),
    "transformer.ln_f.weight": (8,),
}


def nanogpt(prefix="_orig_mod.", **arguments):
    tensors = {name: weight(name, shape) for name, shape in NANO_SHAPES.items()}
    state = {prefix + name: Tensor(array) for name, array in tensors.items()}
    state[f"{prefix}lm_head.weight"] = state[f"{prefix}transformer.wte.weight"]
    return {"model": state, "model_args": NANO | arguments, "iter_num": 3, "config": {"lr": 1e-3}}


def numpy_nanogpt(tokens):
    """NanoGPT's forward pass, from its weights as files have them."""
    w = {n.removeprefix("transformer."): weight(n, s).astype(float) for n, s in NANO_SHAPES.items()}
    erf = np.vectorize(__import__("math").erf)

    def norm(x, gain):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain

    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    q, k, v = np.split(norm(x, w["h.0.ln_1.weight"]) @ w["h.0.attn.c_attn.weight"].T, 3, axis=1)
    mixed = np.zeros_like(q)
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(len(tokens)):
            odds = np.exp(q[t, head] @ k[: t + 1, head].T / 2)
            mixed[t, head] = odds / odds.sum() @ v[: t + 1, head]
    x = x + mixed @ w["h.0.attn.c_proj.weight"].T
    inner = norm(x, w["h.0.ln_2.weight"]) @ w["h.0.mlp.c_fc.weight"].T
    x = x + inner * (1 + erf(inner / np.sqrt(2))) / 2 @ w["h.0.mlp.c_proj.weight"].T
    return norm(x, w["ln_f.weight"]) @ w["wte.weight"].T


def test_a_nanogpt_computes_what_nanogpt_does(tmp_path, torch):
    write(tmp_path / "ckpt.pt", nanogpt())
    model = load_checkpoint(tmp_path)  # a training's output folder, too
    tokens = np.array([1, 4, 0, 2])
    found = jax.jit(model.apply_fn)(model.params, jnp.asarray(tokens[None]))[0]
    np.testing.assert_allclose(found, numpy_nanogpt(tokens), atol=1e-5)
    assert model.config.tie_embeddings
    assert not model.config.use_bias
    assert model.tokenizer is None


def test_names_and_sizes_of_relatives_of_nanogpt(tmp_path, torch):
    content = nanogpt(prefix="")
    names = {name.replace("ln_1.weight", "ln_1.gamma"): t for name, t in content["model"].items()}
    sizes = {"num_layers": 1, "num_heads": 2, "dim_embedding": 8, "seq_length": 4, "vocab_size": 5}
    write(tmp_path / "a.pt", nanogpt())
    write(tmp_path / "b.pt", {"model": names, "model_args": sizes | {"use_bias": False}})
    one, other = load_checkpoint(tmp_path / "a.pt"), load_checkpoint(tmp_path / "b.pt")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_what_is_not_a_nanogpt_is_refused(tmp_path, torch):
    write(tmp_path / "weights.pt", {"a": Tensor(np.ones(2, np.float32))})
    with pytest.raises(
        ValueError, match=r"weights.pt: expected a nanoGPT: .* got one with \['a'\]"
    ):
        load_checkpoint(tmp_path / "weights.pt")
    write(tmp_path / "ckpt.pt", nanogpt(n_head=3))
    with pytest.raises(ValueError, match=r"ckpt.pt: model_args: num_heads: expected a divisor"):
        load_checkpoint(tmp_path)
    write(tmp_path / "ckpt.pt", nanogpt(n_layer=10**9))
    with pytest.raises(ValueError, match=r"expected at least the [\d,]+ numbers"):
        load_checkpoint(tmp_path)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HARMFUL = {
    "system": (Calls(os.system, "touch owned"), "posix.system"),
    "eval": (Calls(eval, "1 + 1"), "(builtins|__builtin__).eval"),
    "getattr": (Calls(getattr, "x", "upper"), "(builtins|__builtin__).getattr"),
    "nested": ({"model": [Calls(os.listdir, ".")]}, "posix.listdir"),
    "a class": (Path("x"), "pathlib"),
    "numpy": (np.ones(2), "numpy"),
}


@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_nothing_is_called(tmp_path, torch, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    content, named = HARMFUL[name]
    if kind == "bare":
        (tmp_path / "model.pt").write_bytes(pickle.dumps(content))
    else:
        write(tmp_path / "model.pt", {"x": content}, legacy=kind == "legacy")
    message = rf"model.pt: expected a PyTorch file that holds arrays only, got: .*{named}"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "owned").exists()


def pickled(*, opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


@pytest.mark.parametrize(
    "program",
    [
        pickled(opcodes=b"N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f"),  # a memo of 16 GB
        pickled(opcodes=b"\x8e" + (2**60).to_bytes(8, "little")),  # bytes that do not follow
        pickled(opcodes=pickle.LONG4 + b"\xff\xff\xff\x7f"),
        pickled(opcodes=b"ccollections\nOrderedDict\n(lb"),
        pickled(opcodes=b"R"),
        pickled(opcodes=b"I12a\n"),
        pickled(opcodes=b"(N\x85Q"),
        b"\x80\x02",
        b"\x80\x09.",
    ],
)
def test_damaged_programs_are_refused(tmp_path, program):
    (tmp_path / "bare.pt").write_bytes(program)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("m/data.pkl", program)
    for name in ("bare.pt", "zip.pt"):
        with pytest.raises(ValueError, match=rf"{name}: (value: )?expected a"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (10**9, 10**9)}, "expected a view of the 6 numbers"),
        ({"shape": (2, 3), "strides": (10**6, 1)}, "expected a view of the 6 numbers"),
        ({"shape": (1000, 1000), "strides": (0, 0)}, "expected a view of the 6 numbers"),
        ({"offset": 1}, "expected a view of the 6 numbers"),
        ({"offset": -1}, "expected a count, got -1"),
        ({"shape": (-2, -3)}, r"expected a shape, got \(-2, -3\)"),
        ({"shape": (2.0, 3)}, "expected a shape"),
        ({"strides": (1,)}, "expected a stride for each axis"),
    ],
)
def test_tensors_that_the_file_does_not_hold_are_refused(tmp_path, torch, changes, message, legacy):
    content = {"w": Tensor(np.zeros((2, 3), np.float32), **changes)}
    write(tmp_path / "model.pt", content, legacy=legacy)
    with pytest.raises(ValueError, match=rf"model.pt: w: tensor: {message}"):
        read_pickle(tmp_path / "model.pt")


def test_storages_that_the_file_does_not_hold_are_refused(tmp_path, torch):
    content = {"w": Tensor(np.zeros((2, 3), np.float32))}
    write(tmp_path / "model.pt", content, legacy=True)
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"storage 0: expected at most the \d+ bytes that follow"):
        read_pickle(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(whole[:-32] + (2**62).to_bytes(8, "little") + whole[-24:])
    with pytest.raises(ValueError, match=r"storage 0: expected at most the"):
        read_pickle(tmp_path / "model.pt")
    write(tmp_path / "model.pt", content)
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for method, change in (
        (zipfile.ZIP_DEFLATED, {}),
        (zipfile.ZIP_STORED, {"model/data/0": b"\0" * 20}),
        (zipfile.ZIP_STORED, {"model/byteorder": b"big"}),
    ):
        with zipfile.ZipFile(tmp_path / "other.pt", "w", method) as archive:
            for name, data in (entries | change).items():
                archive.writestr(name, data)
        with pytest.raises(ValueError, match=r"other.pt.*: expected"):
            read_pickle(tmp_path / "other.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_are_not_multiplied_by_sharing_them(tmp_path, torch, legacy):
    shared = Tensor(np.ones(1000, np.float32))
    write(tmp_path / "model.pt", {str(i): shared for i in range(2)}, legacy=legacy)
    assert len(read_pickle(tmp_path / "model.pt")) == 2
    write(tmp_path / "model.pt", {str(i): shared for i in range(100)}, legacy=legacy)
    with pytest.raises(ValueError, match=r"model.pt: expected tensors of at most \d+ bytes, 4 for"):
        read_pickle(tmp_path / "model.pt")
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"a": entry, "b": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(ValueError, match=r"tensors of at most 8 bytes, which share none, got 16"):
        describe_safetensors(file)


@pytest.mark.parametrize("legacy", [False, True])
def test_containers_that_hold_one_another_are_refused(tmp_path, torch, legacy):
    laughs: list = []
    for _ in range(60):
        laughs = [laughs, laughs]
    circle: dict = {}
    circle["again"] = circle
    for content in ({"x": laughs}, circle):
        write(tmp_path / "model.pt", content, legacy=legacy)
        with pytest.raises(ValueError, match=r"model.pt: .*got: containers that hold one another"):
            read_pickle(tmp_path / "model.pt")


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b'{"w": 3}'])
def test_headers_of_safetensors_that_are_none_are_refused(tmp_path, header):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"model.safetensors.*: expected"):
        describe_safetensors(file)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [10**9, 10**9]}, "expected 4000000000000000000 bytes"),
        ({"shape": [-1, -2]}, "expected a shape"),
        ({"shape": [2.0]}, "expected a shape"),
        ({"shape": None}, "expected a shape"),
        ({"dtype": "F128"}, "expected one of the dtypes F64, F32"),
        ({"dtype": []}, "expected one of the dtypes F64, F32"),
        ({"data_offsets": [0, 10**12]}, "expected bytes among the 8 of data"),
        ({"data_offsets": [8, 0]}, "expected bytes among the 8 of data"),
        ({"data_offsets": [-8, 0]}, "expected bytes among the 8 of data"),
        ({"data_offsets": [0]}, "expected bytes among the 8 of data"),
        ({"data_offsets": [0, 4]}, "expected 8 bytes, as its shape .2,. of F32 takes, got 4"),
    ],
)
def test_headers_that_promise_what_the_file_does_not_hold_are_refused(tmp_path, entry, message):
    file = tmp_path / "model.safetensors"
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(ValueError, match=rf"model.safetensors: w: {message}"):
        describe_safetensors(file)
    file.write_bytes((2**63).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(ValueError, match=r"with a header of at most \d+ bytes, got 9223372036854"):
        describe_safetensors(file)


def test_the_trained_nanogpt_has_its_loss(real_data):
    folder = real_data / "checkpoints" / "gpt-by-hand"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    model = load_checkpoint(folder / "ckpt.pt")
    ids = np.fromfile(folder / "val.bin", "<u2").astype(np.int32)
    rows = (len(ids) - 1) // 8
    inputs, targets = (ids[i : i + 8 * rows].reshape(rows, 8) for i in (0, 1))
    odds = jax.nn.log_softmax(jax.jit(model.apply_fn)(model.params, inputs))
    loss = -jnp.mean(jnp.take_along_axis(odds, targets[..., None], axis=-1))
    assert model.config.num_parameters == 7_376 - 32 * 16  # the tied read-out counts once
    assert float(loss) == pytest.approx(1.50608, abs=1e-5)
