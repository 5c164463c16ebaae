"""Muon against Adam at its smallest size: shapes of results, not their values."""

from __future__ import annotations

import json

import pytest

from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments.spectral_lens_muon_adam import EXPERIMENT
from lnpjax.experiments.spectral_lens_muon_adam.config import PRESETS, TRAINED_BY
from lnpjax.experiments.spectral_lens_muon_adam.measure import num_units
from lnpjax.experiments.spectral_lens_muon_adam.updates import RULES

SMOKE = PRESETS["smoke"]
MATRICES = {"query", "value", "output", "mlp_output"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return reproduce(EXPERIMENT, "smoke", tmp_path_factory.mktemp("muon_adam"))


def test_rows_of_the_sweep(smoke):
    rows = [json.loads(line) for line in (smoke.folder / "results.jsonl").open()]
    cells = len(SMOKE.states) * len(MATRICES) * len(RULES) * len(SMOKE.batch_sizes)
    assert len(rows) == num_units(SMOKE) * cells
    assert {row["matrix"] for row in rows} == MATRICES
    assert {row["trained_by"] for row in rows} == set(TRAINED_BY)
    assert all(row["noise"] > 0 for row in rows)


def test_figures_and_claims_are_written(smoke):
    names = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert names == {"spectra.png", "batch_sizes.png"}
    claims = [entry for entry in smoke.judged if isinstance(entry, Claim)]
    assert {claim.verdict for claim in claims} == {"set-up short of the paper"}
