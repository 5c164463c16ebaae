"""The toy of Spectral Lens at its smallest size: shapes of results, not their values."""

from __future__ import annotations

import dataclasses
import fnmatch
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax._base.configs import decode
from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import judged, reproduce
from lnpjax.experiments._harness.sweep import (
    Sweep,
    SweepProgress,
    UnitResult,
    config_to_json,
)
from lnpjax.experiments._harness.tables import claims_json
from lnpjax.experiments.spectral_lens_toy import EXPERIMENT
from lnpjax.experiments.spectral_lens_toy.config import PRESETS, STAGES
from lnpjax.experiments.spectral_lens_toy.measure import _Cell, num_units
from lnpjax.experiments.spectral_lens_toy.training import (
    ToyData,
    ToyTrainer,
    stage_architecture,
    stage_optimizer,
)

SMOKE = PRESETS["smoke"]


class Computed(SweepProgress):
    count = 0

    def done(self, name, *, seconds=None):
        self.count += seconds is not None


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    progress = Computed()
    found = reproduce(EXPERIMENT, "smoke", folder, progress=progress)
    assert progress.count == num_units(SMOKE) == 1 + 2 * 4 * 2 + 2
    return found


def test_rows_of_the_sweep(smoke):
    rows = [json.loads(line) for line in (smoke.folder / "results.jsonl").open()]
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in
               ("search", "loss", "spectrum", "probe")}  # fmt: skip
    runs = len(STAGES) * len(SMOKE.batch_sizes) + 2  # and the two of the control
    assert len(by_kind["loss"]) == runs * (SMOKE.num_blocks + 1)
    assert len(by_kind["spectrum"]) == runs * len(SMOKE.checkpoints)
    tracked, last = len(SMOKE.tracked_bands), len(SMOKE.bands)
    assert len(by_kind["probe"]) == runs * (tracked * (len(SMOKE.checkpoints) - 1) + last)
    assert {row["stage"] for row in by_kind["loss"]} == set(STAGES)
    tokens = [row["tokens"] for row in by_kind["loss"] if row["unit"] == "muon-b16-s0"]
    assert tokens == [SMOKE.tokens_per_block * block for block in range(SMOKE.num_blocks + 1)]
    for row in by_kind["probe"]:
        assert 0 < row["H_peak"] <= row["H_S"] + 1e-9 or row["H_S"] < 1
        assert 0 < row["pc1_peak_mass"] <= 1
    bands = [row for row in rows if row["kind"] == "band"]
    assert [row["band"] for row in bands] == ["5:0", "13:2"]
    assert bands[0]["chance_H_S"] == 1
    # The chosen rate is one of the candidates.
    for row in by_kind["search"]:
        assert row["learning_rate"] in SMOKE.learning_rates(row["batch_size"])


def test_figures_and_claims(smoke):
    names = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert names == {"losses.png", "figure_4.png", "figure_11.png"}
    verdicts = {claim.verdict for claim in smoke.judged if isinstance(claim, Claim)}
    assert verdicts == {"set-up short of the paper"}
    assert "Fig. 11c" in (smoke.folder / "claims.md").read_text()


def test_a_finished_sweep_is_only_read(smoke):
    sweep = Sweep(smoke.folder, SMOKE)
    EXPERIMENT.measure(SMOKE, sweep, None)
    assert sweep.num_computed == 0
    again = judged(EXPERIMENT, "smoke", SMOKE, sweep)
    assert claims_json(again) == claims_json(smoke.judged)


def test_stages_add_up():
    rotary, untied = (
        [getattr(stage_architecture(stage, SMOKE.shape), name) for stage in STAGES]
        for name in ("rotary", "untied")
    )
    assert rotary == [False, True, True, True]
    assert untied == [False, False, False, True]
    with pytest.raises(ValueError, match="stage: expected one of baseline, rope, muon, untied"):
        stage_architecture("adam", SMOKE.shape)


@pytest.fixture(scope="module")
def trainer():
    data = ToyData(task=SMOKE.task, num_train=64, num_validation=32, seed=0)
    return ToyTrainer("untied", SMOKE.shape, data)


def test_the_same_run_twice_and_in_two_parts(trainer):
    def run():
        state = trainer.initial_state(seed=4, embedding_std=1.0)
        for _ in range(2):
            state = trainer.advance(state, 0.01, batch_size=4, steps=2)
        return state

    first, second = run(), run()
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    start = trainer.initial_state(seed=4, embedding_std=1.0)
    assert trainer.validation_loss(start.params) == pytest.approx(np.log(16), rel=1e-6)
    assert trainer.validation_loss(first.params) < np.log(16)


def test_muon_moves_the_matrices_of_the_blocks_orthogonally(trainer):
    state = trainer.initial_state(seed=0, embedding_std=1.0)
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(state.params)))
    leaves, structure = jax.tree.flatten(state.params)
    gradients = structure.unflatten(
        [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )
    optimizer = stage_optimizer("untied", 0.001)
    update = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
    updates = update(gradients, state.params)
    query = updates["layers"][0]["attention"]["query"]["kernel"]
    singular = np.linalg.svd(np.asarray(query[...]), compute_uv=False) / 0.05
    assert np.all((singular > 0.6) & (singular < 1.25))  # five steps of Newton and Schulz
    head = np.asarray(updates["head"]["kernel"][...])
    np.testing.assert_allclose(np.abs(head), 0.001, rtol=1e-3)  # Adam's first step


def test_sequences_that_no_two_pools_share():
    data = ToyData(task=SMOKE.task, num_train=64, num_validation=64, seed=0)
    assert jnp.any(data.train != data.validation)


def test_the_sweep_is_shared_by_stages(tmp_path):
    """Both halves together are the whole, and a run without its search says what is missing."""
    names = Names(tmp_path, SMOKE)
    EXPERIMENT.measure(SMOKE, names, None)
    parts = [fnmatch.filter(names.asked, pattern) for pattern in ("[ru]*", "[bm]*")]
    assert sorted(parts[0] + parts[1]) == sorted(names.asked)
    assert len(names.asked) == num_units(SMOKE)
    with pytest.raises(ValueError, match="only: expected a pattern that includes rope-b8-search"):
        names.asked["rope-b8-s0"]()


class Names(Sweep):
    """A sweep that asks for everything and computes nothing."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = {}

    def unit(self, name, compute):
        self.asked[name] = compute
        return UnitResult([])


def test_batch_sizes_share_neither_networks_nor_batches():
    runs = {_Cell("muon", size, seed).run_seed for size in (4, 8) for seed in (0, 1)}
    assert len(runs) == 4


def test_learning_rates_around_both_centres():
    config = dataclasses.replace(SMOKE, base_learning_rate=1.0, multipliers=(0.5, 1.0, 2.0))
    assert config.learning_rates(8) == [0.5, 1.0, 2.0]
    wide = dataclasses.replace(config, batch_sizes=(2, 8), compared_batch_sizes=(2,))
    assert wide.learning_rates(8) == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    config = PRESETS[preset]
    assert (
        decode(type(config), json.loads(json.dumps(config_to_json(config))), source="test")
        == config
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens_per_block": 100}, "tokens_per_block: expected a multiple of the 64 tokens"),
        ({"checkpoints": (0, 2)}, "checkpoints: expected from 0 to num_blocks=4"),
        ({"rungs": (4,)}, "rungs: expected blocks before num_blocks=4"),
        ({"compared_batch_sizes": (4,)}, "compared_batch_sizes: expected some of batch_sizes"),
        ({"tracked_bands": ((3, 0),)}, "tracked_bands: expected some of bands"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)
