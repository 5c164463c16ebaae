"""The table at the end of a run."""

from __future__ import annotations

from typing import Any

import pytest

from lnpjax.runs import summary_table


def cells(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    table = summary_table(rows)
    name, *others = (list(column.cells) for column in table.columns)
    return {str(row): [str(column[i]) for column in others] for i, row in enumerate(name)}


def test_the_table_compares_the_first_and_the_last_window() -> None:
    rows: list[dict[str, Any]] = [
        {"kind": "train", "step": step, "loss": loss} for step, loss in enumerate((4.0, 4.0, 4.0))
    ]
    rows += [{"kind": "validation", "step": step, "loss": loss} for step, loss in ((0, 3), (2, 6))]
    rows.append({"kind": "test", "step": 2, "loss": 7})
    for step, window, chi in ((0, 0, 0.5), (1, 1, 0.02), (2, 1, 0.03)):
        numbers = {f"chi_{name}": chi for name in ("loss", "net", "pos")}
        sems = {"chi_net_sem": 0.1, "chi_pos_sem": 0.004}
        rows.append({"kind": "lnp", "step": step, "window": window} | numbers | sems)
    found = cells(rows)
    assert found["training loss"] == ["4", "4", "x 1"]
    assert found["validation loss"] == ["3", "6", "x 2"]
    assert found["test loss"] == ["", "7", ""]
    assert found["chi_loss"] == ["0.5", "0.025 ± 0.005", "/ 20"]
    assert found["chi_net"] == ["0.5 ± 0.1", "0.025 ± 0.005", "/ 20"]
    assert found["chi_pos"] == ["0.500 ± 0.004", "0.025 ± 0.005", "/ 20"]
    caption = str(summary_table(rows).caption)
    assert "at step 0 and over steps 1 to 2" in caption


@pytest.mark.parametrize(
    ("chi", "text"),
    [
        ((2.0e7, 2.2e7), "(2.1 ± 0.1)e+07"),
        ((1.5e-7, 1.7e-7), "(1.6 ± 0.1)e-07"),
        ((-0.3, -0.5), "-0.4 ± 0.1"),
        ((3.0, 3.0), "3"),
    ],
)
def test_numbers_show_the_digits_that_they_are_good_for(
    chi: tuple[float, float], text: str
) -> None:
    rows = [
        {"kind": "lnp", "step": i, "window": 0}
        | dict.fromkeys(("chi_loss", "chi_net", "chi_pos"), c)
        for i, c in enumerate(chi)
    ]
    assert cells(rows)["chi_pos"][1] == text


def test_undefined_components_leave_the_table_standing() -> None:
    rows = [
        {"kind": "lnp", "step": 0, "window": 0, "chi_loss": 0.0, "chi_net": 1.0, "chi_pos": None}
    ]
    assert cells(rows)["chi_pos"] == ["nan", "nan", "x nan"]
