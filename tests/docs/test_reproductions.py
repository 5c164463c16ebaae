"""The committed results: their tables are what their rows say, and every claim has its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lnpjax import experiments
from lnpjax.experiments._harness.reproduction import judged, stored
from lnpjax.experiments._harness.tables import claims_json, claims_markdown

FOLDERS = sorted(
    path.parent
    for path in (Path(__file__).parents[2] / "docs" / "reproductions").glob("*/claims.json")
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_table_is_what_the_rows_say(folder):
    table = json.loads((folder / "claims.json").read_text())
    experiment = experiments.experiment(table["experiment"])
    assert folder.name == f"{table['experiment']}-{table['preset']}"
    config, sweep = stored(experiment, table["preset"], folder)
    entries = judged(experiment, table["preset"], config, sweep)
    again = claims_json(entries)
    verdicts, old = ([claim["verdict"] for claim in found["claims"]] for found in (again, table))
    assert verdicts == old
    for claim, before in zip(again["claims"], table["claims"], strict=True):
        for finding, was in zip(claim["findings"], before["findings"], strict=True):
            assert finding["what"] == was["what"]
            unknown = was["value"] is None
            expected = None if unknown else pytest.approx(was["value"], rel=1e-4, abs=1e-9)
            assert finding["value"] == expected
    heading = claims_markdown(table["title"], entries).splitlines()[0]
    assert (folder / "claims.md").read_text().startswith(heading)
    assert list((folder / "figures").glob("*.png"))


def test_there_are_results():
    assert FOLDERS
