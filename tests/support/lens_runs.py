"""Runs whose losses, speeds and spectra are known in closed form.

The validation loss is ``TARGET - SLOPE ln(t / T)`` after t tokens, so that the target is met after
exactly T; the activations' spectrum is ``rank ** -alpha``, with alpha linear in ln t.
"""

from __future__ import annotations

import math

import numpy as np

from lnpjax.runs import Run, RunSummary

TARGET, SLOPE = 3.0, 0.25
CONTEXT, WIDTH = 64, 96
HEAD, TAIL = (1, 10), (13, 25)
LAYERS = ("layers/0", "layers/1", "layers/2")
WEIGHT = "layers/2/attention/output/kernel"


def config(batch_size=8, *, learning_rate=1e-2, seed=0, num_layers=3, fingerprint="abc"):
    return {
        "lnpjax_version": "0",
        "run_id": f"{seed}-{batch_size}",
        "num_parameters": 1000 * num_layers,
        "model": {"num_layers": num_layers, "tie_embeddings": False},
        "data": {"context_length": CONTEXT, "fingerprint": fingerprint, "num_validation": 16},
        "training": {
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "steps": 1000,
        },
        "measurement": {"window_width": 2},
    }


def loss_at(tokens, tokens_to_target):
    return TARGET - SLOPE * math.log(tokens / tokens_to_target)


def summary(alpha, *, rank_me=20.0, sem=0.01, head=None, status=0):
    return {
        "rank_me": rank_me,
        "effective_dimension": 30,
        "trace": 2.0,
        "alpha_head": alpha if head is None else head,
        "alpha_head_sem": sem,
        "alpha_head_r_squared": 0.99,
        "alpha_tail": alpha,
        "alpha_tail_sem": sem,
        "alpha_tail_r_squared": 0.99,
        "status": status,
    }


def make_run(
    folder,
    *,
    tokens_to_target,
    end,
    alpha=1.0,
    drift=0.0,
    gradient=1.5,
    spectra=9,
    speed=1e4,
    plain=None,
    options=None,
    layer_alphas=None,
    undefined=(),
):
    """A run on disk, read again. `alpha` is the exponent after 1000 tokens of the deepest layer."""
    ranks = np.arange(1, WIDTH + 1)
    with Run.create(folder, options or config()) as run:
        for step, tokens in enumerate(np.geomspace(512, end, 21).round().astype(int)):
            loss = loss_at(tokens, tokens_to_target)
            run.append({"kind": "train", "step": step, "tokens": tokens, "loss": loss})
            run.append({"kind": "validation", "step": step, "tokens": tokens, "loss": loss})
        for number, tokens in enumerate(np.geomspace(512, end, spectra) if spectra else ()):
            deepest = alpha + drift * math.log(tokens / 1000)
            alphas = dict.fromkeys(LAYERS, deepest) | (layer_alphas or {})
            activations = {
                layer: summary(math.nan if (number, layer) in undefined else value,
                               rank_me=10 + 5 * depth + number,
                               status=32 if (number, layer) in undefined else 0)
                for depth, (layer, value) in enumerate(alphas.items())
            }  # fmt: skip
            run.append({
                "kind": "spectra", "step": number, "tokens": int(tokens), "flops": 6.0 * tokens,
                "tokens_before": int(tokens),
                "loss": loss_at(tokens, tokens_to_target) + 0.01,
                "activations": activations,
                "gradients": {WEIGHT: summary(gradient, rank_me=8 + number)},
            })  # fmt: skip
            arrays = {f"activations/{name}": ranks**-a for name, a in alphas.items()}
            arrays |= {f"gradients/{WEIGHT}": 3 * ranks**-gradient, "head_window": np.array(HEAD)}
            arrays |= {f"tail_window/activations/{layer}": np.array(TAIL) for layer in LAYERS}
            arrays |= {f"tail_window/gradients/{WEIGHT}": np.array(TAIL), "step": number}
            run.save_spectrum(f"lens-{number:08d}", **arrays)
        if speed:
            run.append_session({
                "kind": "session", "first_step": 0, "last_step": 20, "tokens": end,
                "seconds": end / speed, "tokens_per_second": speed,
                "plain_tokens_per_second": plain,
            })  # fmt: skip
    return Run.open(folder)


def run_summary(**changes):
    """A run without files: losses fall by 1/2 with every factor of ten in tokens."""
    tokens = 10.0 ** np.arange(2, 7)
    given = {
        "name": "run",
        "config": config(),
        "validation_tokens": tokens,
        "validation_losses": 5 - 0.5 * np.log10(tokens),
        "num_tokens": 1e6,
        "tokens_per_second": 1e4,
        "plain_tokens_per_second": math.nan,
        "spectra": (),
    }
    return RunSummary(**given | changes)
