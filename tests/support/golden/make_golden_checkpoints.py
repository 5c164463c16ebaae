"""Write checkpoints.json: what `transformers` computes for the models of tiny_checkpoints.py.

Needs torch and transformers, and nothing of this library, from the root of the repository::

    PYTHONPATH=tests/support python tests/support/golden/make_golden_checkpoints.py

For every model the file holds the names and shapes that `transformers` gives its tensors on disk,
and the logits that it computes from a folder with weights by the formula.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import CONFIGS, GOLDEN, inputs, weight


def stored_shapes(config: dict) -> dict[str, list[int]]:
    settings = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    model = getattr(transformers, config["architectures"][0])(settings)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored = load_file(f"{folder}/model.safetensors")
    return {name: list(array.shape) for name, array in sorted(stored.items())}


def logits_of_folder(folder: str | Path, x: np.ndarray) -> np.ndarray:
    """What `transformers` computes in float32 for tokens, or for images with channels last."""
    config = json.loads((Path(folder) / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x.astype(np.int64))
    with torch.no_grad():
        return model(given).logits.numpy()


def record(config: dict) -> dict:
    shapes = stored_shapes(config)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        tensors = {name: weight(name, tuple(shape)) for name, shape in shapes.items()}
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
        logits = logits_of_folder(folder, inputs(config))
    return {"shapes": shapes, "logits": np.round(logits.astype(np.float64), 6).tolist()}


if __name__ == "__main__":
    records = {name: record(config) for name, config in CONFIGS.items()}
    GOLDEN.write_text(json.dumps({"transformers": transformers.__version__} | records) + "\n")
