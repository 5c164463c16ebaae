"""The benchmark suite: what is compared with what, and what becomes of devices that tell little."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import math
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import benchmarks.__main__ as suite
from benchmarks import (
    baseline,
    kernel_cost,
    lanczos_cost,
    lens_cost,
    measured_step,
    memory,
    tables,
    timing,
)

ENVIRONMENT = {"lnpjax": "0.1.0", "jax": "0.10.1", "device": "cpu", "cores": 2}
ROW = {
    "model": "1.2M",
    "variant": "measured",
    "cost_in_plain_steps": 2.0,
    "spread": 0.01,
    "scratch_megabytes": 100.0,
}
PLAIN = {"model": "1.2M", "variant": "plain step", "cost_in_plain_steps": 0.0, "spread": 0.01}


def fake_benchmark(monkeypatch, **benchmarks):
    """Make a registry of these functions of the number of rounds, in modules of their own."""
    for name, run in benchmarks.items():
        module = types.ModuleType(f"benchmarks.{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, loader=None)
        module.run = run
        module.table = lambda rows: f"{len(rows)} rows"
        monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = {f"{name}-1": suite.Benchmark(name) for name in benchmarks}
    monkeypatch.setattr(suite, "registry", lambda: registry)


# The command.


def test_every_workload_is_registered():
    registry = suite.registry()
    for family, names in {
        "kernel": kernel_cost.WORKLOADS,
        "lanczos": lanczos_cost.WORKLOADS,
        "lens": [lens_cost.MODEL],
    }.items():
        registered = {name for name in registry if name.startswith(f"{family}-")}
        assert registered == {f"{family}-{name}" for name in names}
    assert {name.split("-")[0] for name in registry} == set(suite.FAMILIES)
    work = [(b.module, b.arguments) for b in registry.values()]
    assert len(set(work)) == len(work)


@pytest.mark.parametrize("name", suite.registry())
def test_module_can_be_called_as_registered(name):
    benchmark = suite.registry()[name]
    if importlib.util.find_spec(f"benchmarks.{benchmark.module}") is None:
        pytest.skip(f"benchmarks/{benchmark.module}.py is not there")
    module = importlib.import_module(f"benchmarks.{benchmark.module}")
    options = benchmark.options | ({"perspic": ""} if benchmark.needs == "perspic" else {})
    inspect.signature(module.run).bind(*benchmark.arguments, rounds=1, **options)
    inspect.signature(module.table).bind([])


def test_those_that_start_processes_run_before_this_one_uses_the_device():
    apart = [benchmark.apart for benchmark in suite.registry().values()]
    assert any(apart)
    assert apart == sorted(apart, reverse=True)


def test_list_runs_nothing(capsys):
    assert suite.main(["--list"]) == 0
    everything = capsys.readouterr().out
    assert all(f"  {name}" in everything.replace("\n", " ") for name in suite.registry())
    assert suite.main(["kernel", "--list"]) == 0
    kernels = capsys.readouterr().out
    assert "kernel-cnn" in kernels
    assert "step-" not in kernels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "'nonsense' in its name; --list shows them"),
        (["--rounds", "0"], "--rounds: expected a number >= 1, got 0"),
        (["--out", "nowhere/results.json"], "--out: there is no folder nowhere"),
        (["--baseline", "nothing.json"], "--baseline: there is no file nothing.json"),
        (["--perspic", "nowhere"], "--perspic: there is no folder nowhere"),
        (["--baseline", "a.json", "--no-baseline"], "not allowed with argument"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        suite.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_cannot_run_says_what_to_do():
    def reason(benchmark, perspic=None, named=False):
        return suite.reason_to_skip(benchmark, perspic=perspic, named=named)

    rival = suite.Benchmark("memory", needs="perspic")
    assert "--perspic PATH" in reason(rival)
    assert reason(rival, perspic=Path(".")) is None
    large = suite.Benchmark("measured_step", needs="accelerator")
    assert "sized for an accelerator" in reason(large)
    assert reason(large, named=True) is None
    assert reason(suite.Benchmark("no_such")) == "benchmarks/no_such.py is not there"
    assert reason(suite.Benchmark("memory")) is None


def test_kernels_do_without_neural_tangents(monkeypatch):
    def unknown():
        raise ImportError("not for this jax")

    monkeypatch.setattr(kernel_cost, "import_neural_tangents", unknown)
    [reason] = kernel_cost.rival_is_missing().splitlines()
    assert "neural-tangents is left out: not for this jax" in reason


def test_rows_go_to_json_and_back(monkeypatch, tmp_path, capsys):
    def run(*, rounds):
        return [ROW | {"rounds": rounds, "share_of_peak": math.nan}]

    fake_benchmark(monkeypatch, fake=run)
    file = tmp_path / "results.json"
    assert suite.main(["--rounds", "3", "--out", str(file), "--no-baseline"]) == 0
    results = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert results["rows"] == [
        {"benchmark": "fake-1", **ROW, "rounds": 3, "share_of_peak": None},
    ]
    assert results["failed"] == []
    assert results["environment"]["jax"] == jax.__version__
    assert capsys.readouterr().out == "1 rows\n\n"


def test_a_failure_costs_no_other_results(monkeypatch, tmp_path, capsys):
    def fail(*, rounds):
        raise RuntimeError("no such thing")

    fake_benchmark(monkeypatch, broken=fail, whole=lambda *, rounds: [ROW])
    file = tmp_path / "results.json"
    assert suite.main(["--out", str(file), "--no-baseline"]) == 1
    results = json.loads(file.read_text())
    assert results["failed"] == ["broken-1"]
    assert [row["benchmark"] for row in results["rows"]] == ["whole-1"]
    assert "no such thing" in capsys.readouterr().err


@pytest.mark.parametrize(("cost", "verdict"), [(2.0, None), (3.0, "slower"), (1.0, "faster")])
def test_slow_downs_are_shown_and_fail_on_request(cost, verdict, monkeypatch, tmp_path, capsys):
    fake_benchmark(monkeypatch, fake=lambda *, rounds: [ROW | {"cost_in_plain_steps": cost}])
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"environment": ENVIRONMENT, "rows": [ROW]}))
    assert suite.main(["--baseline", str(old)]) == 0
    shown = capsys.readouterr().out
    assert (str(verdict) in shown) == (verdict is not None)
    assert ("nothing differs" in shown) == (verdict is None)
    failing = suite.main(["--baseline", str(old), "--fail-on-regression"])
    assert failing == (verdict == "slower")


# Comparison.


def test_environment_is_json():
    found = baseline.environment(load_before=0.5)
    assert json.loads(json.dumps(found)) == found
    assert found["load_before"] == 0.5
    assert found["platform"] == jax.devices()[0].platform
    assert found["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"devices": 1, "x64": False}, True),
        ({"load_before": 9.0, "jax": "0.11.2"}, True),
        ({"cores": 16}, False),
        ({"device": "NVIDIA H200"}, False),
        ({"devices": 8}, False),
        ({"x64": True}, False),
    ],
)
def test_only_such_machines_are_compared(changed, same, tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"environment": ENVIRONMENT, "rows": [ROW]}))
    found = baseline.committed(ENVIRONMENT | changed, tmp_path)
    assert list(found) == (["old.json"] if same else [])


def test_committed_results_can_be_read_and_match_themselves():
    found = baseline.committed(ENVIRONMENT)
    assert "cpu-2-cores.json" in found
    for result in found.values():
        rows = result["rows"]
        assert all(baseline.matching(row, rows) == row for row in rows)
        assert baseline.changes(rows, rows) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, True),
        ({"spread": 0.9}, True),
        ({"compute": "float32"}, True),  # what older results do not say
        ({"benchmark": "step-1"}, True),
        ({"compute": "bfloat16"}, False),
        ({"variant": "plain step"}, False),
        ({"workload": "kernel"}, False),
    ],
)
def test_rows_match_by_their_text(changed, found):
    assert (baseline.matching(ROW | changed, [PLAIN, ROW]) == ROW) == found


def test_rows_of_other_benchmarks_do_not_match():
    old = ROW | {"benchmark": "step-1"}
    assert baseline.matching(ROW | {"benchmark": "step-1"}, [old]) == old
    assert baseline.matching(ROW | {"benchmark": "memory-1"}, [old]) is None


@pytest.mark.parametrize(
    ("new", "verdicts"),
    [
        ({}, []),
        ({"cost_in_plain_steps": 2.19}, []),
        ({"cost_in_plain_steps": 2.21}, ["slower"]),
        ({"cost_in_plain_steps": 1.79}, ["faster"]),
        ({"cost_in_plain_steps": 2.21, "spread": 0.2}, []),
        ({"cost_in_plain_steps": 2.5, "spread": 0.2}, ["slower"]),
        ({"cost_in_plain_steps": None}, ["not measured"]),
        ({"scratch_megabytes": 104.9}, []),
        ({"scratch_megabytes": 105.1}, ["more memory"]),
        ({"scratch_megabytes": 105.1, "spread": 0.2}, ["more memory"]),
        ({"scratch_megabytes": 94.0}, ["less memory"]),
        ({"cost_in_plain_steps": 3.0, "scratch_megabytes": 200.0}, ["slower", "more memory"]),
        ({"milliseconds": 1e9}, []),
    ],
)
def test_verdicts(new, verdicts):
    found = baseline.changes([PLAIN, ROW | new], [PLAIN, ROW])
    assert [change.verdict for change in found] == verdicts


def test_the_plain_steps_spread_counts():
    slower = ROW | {"cost_in_plain_steps": 2.5}
    assert baseline.changes([PLAIN, slower], [PLAIN, ROW])
    assert not baseline.changes([PLAIN | {"spread": 0.3}, slower], [PLAIN, ROW])
    assert baseline.changes([PLAIN | {"spread": 0.3, "model": "115K"}, slower], [PLAIN, ROW])


def test_small_costs_change_by_tenths_of_a_plain_step():
    old = ROW | {"cost_in_plain_steps": 0.01}
    assert not baseline.changes([ROW | {"cost_in_plain_steps": 0.1}], [old])
    assert baseline.changes([ROW | {"cost_in_plain_steps": 0.12}], [old])


def test_report_names_what_it_compares_with(tmp_path):
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"environment": ENVIRONMENT, "rows": [ROW]}))
    other = ENVIRONMENT | {"jax": "0.11.2", "cores": 16}
    text, worse = baseline.report({"environment": other, "rows": [ROW, PLAIN]}, file)
    assert "1 of 2 rows" in text
    assert "old.json (jax 0.10.1, cores 2)" in text
    assert not worse


# Devices.


class Compiled:
    """Of a device that tells as much as it is given."""

    def __init__(self, *, cost=None, memory=None, error=None):
        self.cost, self.memory, self.error = cost, memory, error

    def __call__(self):
        if self.error:
            raise jax.errors.JaxRuntimeError(self.error)
        return jnp.zeros(())

    def cost_analysis(self):
        return self.cost

    def memory_analysis(self):
        if self.memory is None:
            raise NotImplementedError
        return self.memory


@pytest.mark.parametrize(
    ("cost", "flops"),
    [
        ({"flops": 3.0}, 3.0),
        ([{"flops": 3.0}], 3.0),
        ({"flops": -1.0}, math.nan),
        ({"bytes": 3.0}, math.nan),
        ([], math.nan),
        (None, math.nan),
    ],
)
def test_compilers_count_or_do_not(cost, flops):
    assert timing.compiler_flops(Compiled(cost=cost)) == pytest.approx(flops, nan_ok=True)


def test_compilers_plan_or_do_not():
    plan = types.SimpleNamespace(temp_size_in_bytes=3, output_size_in_bytes=4)
    assert timing.planned_bytes(Compiled(memory=plan), "temp", "output") == 7
    assert math.isnan(timing.planned_bytes(Compiled(memory=plan), "temp", "alias"))
    assert math.isnan(timing.planned_bytes(Compiled(), "temp"))


def test_what_does_not_fit_is_left_out_and_the_rest_is_timed():
    full = Compiled(error="RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    timings = timing.time_interleaved({"full": full, "fits": Compiled()}, tuple, rounds=2)
    assert math.isnan(timings["full"].median)
    assert timings["fits"].median > 0
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        timing.time_interleaved({"broken": Compiled(error="INTERNAL: a bug")}, tuple, rounds=1)


def test_tables_show_what_is_missing():
    text = tables.render(
        [
            {"name": "a", "cost": 1.234},
            {"name": "bc", "cost": None},
            {"name": "d", "cost": math.nan},
        ],
        title="title",
        label=lambda row: row["name"],
        columns={"cost": ("cost", ".1f")},
    )
    assert text == "title\n    cost\na    1.2\nbc     -\nd      -"


@pytest.mark.parametrize(
    ("kind", "dtype", "precision", "peak"),
    [
        ("NVIDIA H200", "bfloat16", None, 989.5),
        ("NVIDIA H200", "float32", None, 494.7),
        ("NVIDIA H200", "float32", "highest", 66.9),
        ("cpu", "float32", None, math.nan),
    ],
)
def test_peak_is_of_the_arithmetic_in_use(kind, dtype, precision, peak):
    with jax.default_matmul_precision(precision):
        found = measured_step.peak_teraflops(kind, dtype)
    assert found == pytest.approx(peak, nan_ok=True)


# Memory.


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_resident_growth_is_what_was_touched_at_its_most():
    megabyte = 1_000_000

    def work():
        np.ones(32 * megabyte, np.uint8).sum()  # freed before the next
        np.ones(64 * megabyte, np.uint8).sum()
        np.empty(256 * megabyte, np.uint8)  # reserved, never touched

    np.ones(128 * megabyte, np.uint8).sum()  # an earlier peak
    assert memory.resident_growth(work) == pytest.approx(64 * megabyte, rel=0.05)


@pytest.mark.parametrize(("mark_after", "growth"), [(50, math.nan), (60, 50)])
def test_a_mark_that_stays_hides_what_is_below(mark_after, growth, monkeypatch):
    readings = iter([(10, 50), (10, mark_after)])
    monkeypatch.setattr(memory, "resident_bytes", lambda: next(readings))
    assert memory.resident_growth(lambda: None) == pytest.approx(growth, nan_ok=True)


def test_an_allocators_earlier_peak_hides_a_lower_one(monkeypatch):
    class Device:
        peak = 100

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    device = Device()
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert math.isnan(memory.allocator_peak(lambda: None))
    assert memory.allocator_peak(lambda: setattr(device, "peak", 150)) == 150


def test_memory_is_relative_to_the_plain_steps(monkeypatch):
    def measured(*arguments, runs):
        size = 10.0 * (1 + memory.VARIANTS.index(arguments[3]))
        return {"peak_megabytes": size, "planned_megabytes": 2 * size, "source": "allocator"}

    monkeypatch.setattr(memory, "in_own_process", measured)
    rows = memory.run("115K", 2, 8, rounds=1)
    assert [row["peak_in_plain_steps"] for row in rows] == [1, 2, 3, 4]
    assert [row["planned_in_plain_steps"] for row in rows] == [1, 2, 3, 4]
    assert "allocator" in memory.table(rows)


def test_steps_are_counted_in_plain_steps():
    """Steps of one, two and three products of 16 x 16 matrices."""
    matrix = jnp.eye(16)
    work = measured_step.Workload(None, None, None, matrix, matrix, matrix)
    steps = {
        "plain step": (lambda state, a, b, key: state @ a, (0,)),
        "measured": (lambda state, a, b, key: state @ a @ b, (0,)),
        "stand-alone": (lambda state, a, b, key: state @ a @ b @ a, ()),
    }
    rows = measured_step.time_steps(work, steps, rounds=1)
    assert [row["variant"] for row in rows] == list(steps)
    assert [row["flops_in_plain_steps"] for row in rows] == pytest.approx([0, 1, 3], abs=0.1)
    seconds = [row["milliseconds"] / 1e3 for row in rows]
    assert [row["cost_in_plain_steps"] for row in rows] == pytest.approx(
        [0, seconds[1] / seconds[0] - 1, seconds[2] / seconds[0]]
    )
    counts = [row["teraflop_per_second"] * 1e12 * t for row, t in zip(rows, seconds, strict=True)]
    assert counts == pytest.approx([2 * 16**3, 4 * 16**3, 6 * 16**3])
