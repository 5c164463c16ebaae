"""TensorFlow.js's sequences of layers: against numpy, damaged files, and the published TinyVGG."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from tiny_checkpoints import wave

import lnpjax
from lnpjax.models import load_checkpoint

CONV = {"filters": 2, "kernel_size": [2, 2], "strides": [1, 1], "padding": "valid"}
LAYERS = [
    ("Conv2D", CONV | {"name": "conv", "batch_input_shape": [None, 5, 5, 1]}),
    ("Activation", {"name": "relu", "activation": "relu"}),
    ("MaxPooling2D", {"name": "pool", "pool_size": [2, 2], "strides": [2, 2]}),
    ("Flatten", {"name": "flat"}),
    ("Dropout", {"name": "drop", "rate": 0.5}),
    ("Dense", {"name": "output", "units": 3, "activation": "softmax"}),
]
SHAPES = {"conv/kernel": (2, 2, 1, 2), "conv/bias": (2,), "output/kernel": (8, 3), "output/bias": 3}
WEIGHTS = {name: wave(name, tuple(np.atleast_1d(s)), 0.5) for name, s in SHAPES.items()}


def description(layers=LAYERS):
    layers = [{"class_name": kind, "config": config} for kind, config in layers]
    network = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    weights = [
        {"name": name, "shape": list(array.shape), "dtype": "float32"}
        for name, array in WEIGHTS.items()
    ]
    return {
        "format": "layers-model",
        "modelTopology": {"model_config": network},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": weights}],
    }


def write(folder, written):
    data = b"".join(array.astype("<f4").tobytes() for array in WEIGHTS.values())
    (folder / "a.bin").write_bytes(data[:50])  # a tensor lies across the two files
    (folder / "b.bin").write_bytes(data[50:])
    (folder / "model.json").write_text(json.dumps(written))


def by_hand(image):
    kernel, bias, dense, last = WEIGHTS.values()
    convolved = np.array(
        [
            [np.tensordot(image[i : i + 2, j : j + 2], kernel, 3) + bias for j in range(4)]
            for i in range(4)
        ]
    )
    pooled = np.maximum(convolved, 0).reshape(2, 2, 2, 2, 2).max(axis=(1, 3))
    return pooled.reshape(-1) @ dense + last


def test_logits_are_those_by_hand(tmp_path):
    write(tmp_path, description())
    model = load_checkpoint(tmp_path)
    images = wave("images", (2, 5, 5, 1), 1.0).astype(np.float32)
    found = jax.jit(model.apply_fn)(model.params, images)
    np.testing.assert_allclose(found, [by_hand(image) for image in images], atol=1e-5)
    assert {lnpjax.by_depth(2)(path) for path in lnpjax.parameters.paths(model.params)} == {
        "layers/0",
        "layers/1",
    }
    with pytest.raises(ValueError, match=r"images: expected shape \(batch, 5, 5, 1\)"):
        model.apply_fn(model.params, images[0])


def changed(index, **changes):
    kind, config = LAYERS[index]
    return [*LAYERS[:index], (kind, config | changes), *LAYERS[index + 1 :]]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "format|list"),
        (description() | {"format": "graph-model"}, "format: expected 'layers-model'"),
        (description([("LSTM", {})]), "layer 0: .*expected"),
        (description([*LAYERS[:1], ("LSTM", {})]), "layer 1: class_name: expected one of 'Conv2D'"),
        (
            description(changed(0, kernel_size=[9, 9])),
            "layer conv: expected an image that its wind",
        ),
        (description(changed(0, data_format="channels_first")), "data_format: expected 'channels"),
        (description(changed(0, filters=10**12)), "expected at least the [0-9,]* numbers"),
        (description(changed(5, units=4)), "expected at least the 46 numbers .* got 37"),
        (description(changed(5, activation="mish")), "activation: expected one of 'linear'"),
        (description(changed(0, batch_input_shape=None)), "batch_input_shape: expected the shape"),
        (description(changed(0, batch_input_shape=[None, 0, 5, 1])), "expected positive sizes"),
    ],
)
def test_networks_that_are_not_known_are_refused(tmp_path, written, message):
    write(tmp_path, written)
    with pytest.raises(ValueError, match=rf"model.json.*{message}|{message}"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [10**9, 10**9]}, "bytes of its shape"),
        ({"shape": "big"}, "expected a shape"),
        ({"dtype": "float16"}, "dtype: expected 'float32'"),
        ({"quantization": {"dtype": "uint8"}}, "and no quantization"),
        ({"shape": [1]}, "bytes in a.bin, b.bin"),
    ],
)
def test_weights_that_the_files_do_not_hold_are_refused(tmp_path, changes, message):
    written = description()
    written["weightsManifest"][0]["weights"][0] |= changes
    write(tmp_path, written)
    with pytest.raises(ValueError, match=rf"model.json: .*{message}"):
        load_checkpoint(tmp_path / "model.json")


def test_weights_stay_in_the_folder(tmp_path):
    written = description()
    written["weightsManifest"][0]["paths"] = ["../a.bin"]
    write(tmp_path, written)
    with pytest.raises(ValueError, match=r"model.json: paths: expected names of files next to it"):
        load_checkpoint(tmp_path)


CLASSES = ["boat", "bug", "pizza", "pepper", "bus", "koala", "espresso", "panda", "orange", "car"]


def test_tiny_vgg_classifies_what_it_should(real_data):
    folder = real_data / "checkpoints" / "tiny-vgg"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    image_module = pytest.importorskip("PIL.Image")
    model = load_checkpoint(folder)
    files = [f for f in sorted((folder / "images").iterdir()) if f.stem.split("_")[0] in CLASSES]
    pictures = [np.asarray(image_module.open(file).convert("RGB"), np.float32) for file in files]
    labels = [CLASSES.index(file.stem.split("_")[0]) for file in files]
    chosen = np.argmax(jax.jit(model.apply_fn)(model.params, np.array(pictures) / 255), axis=-1)
    assert model.config.num_parameters == 19_920
    assert (len(files), int(np.sum(chosen == np.array(labels)))) == (20, 14)
