"""Which runs are a family, which are repetitions, and what is said to differ."""

from __future__ import annotations

from lens_runs import config, run_summary

from lnpjax.comparison import families, incomparable, repeats
from lnpjax.comparison._families import differences


def test_families_differ_in_more_than_the_regime():
    configs = [config(8), config(8, num_layers=4), config(16, learning_rate=0.1), config(8, seed=1)]
    configs[3] |= {"measurement": {"window_width": 10}, "lnpjax_version": "9"}
    runs = [run_summary(config=one) for one in configs]
    assert families(runs) == [[0, 2, 3], [1]]
    assert repeats(runs) == [[0, 3], [1], [2]]
    assert differences([runs[0], runs[3]]) == {"training/seed": [0, 1]}
    assert differences(runs[:2]) == {
        "num_parameters": [3000, 4000],
        "model/num_layers": [3, 4],
    }
    older = run_summary(config={key: configs[0][key] for key in configs[0] if key != "model"})
    assert differences([runs[0], older])["model/num_layers"] == [3, "absent"]
    assert incomparable(runs) == []
    assert incomparable([runs[0], run_summary(config=config(fingerprint="other"))]) == [
        "data/fingerprint"
    ]
