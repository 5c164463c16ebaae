"""Shared fixtures. Tests run on the CPU, in float32 unless they ask for `x64`."""

from __future__ import annotations

import collections
import fcntl
import fnmatch
import gc
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled once and run once: compile them cheaply, where the
# compiler survives it (jaxlib 0.11 crashes under these flags). An XLA_FLAGS of one's own wins.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else "",
)

import jax
import pytest
import tiny_runs

from lnpjax import cli

EXHAUSTIVE = Path(__file__).parent / "exhaustive.txt"
# Programs (compiled, and what was traced for them) that a process keeps before it lets them go.
PROGRAMS_KEPT = 2500
# Tracing makes millions of small objects, hardly any of them in cycles: a tenth of the time of the
# suite went into looking for those at Python's own pace.
gc.set_threshold(50_000, 20, 50)


def exhaustive_patterns() -> dict[str, re.Pattern]:
    """The patterns of `exhaustive.txt`, in order, and compiled: each meets thousands of names."""
    lines = EXHAUSTIVE.read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {line: re.compile(fnmatch.translate(line.removeprefix("!"))) for line in patterns}


def is_exhaustive(name: str, patterns: dict[str, re.Pattern]) -> bool:
    """Whether the last pattern that matches the test's name takes it out of the first command."""
    for pattern, compiled in reversed(patterns.items()):
        if compiled.match(name):
            return not pattern.startswith("!")
    return False


def pytest_collection_modifyitems(config, items):
    """Mark what `exhaustive.txt` names; a pattern that names no test of the suite is an error."""
    patterns = exhaustive_patterns()
    for item in items:
        if is_exhaustive(item.nodeid, patterns):
            item.add_marker(pytest.mark.exhaustive)
    if config.args == config.getini("testpaths"):
        for pattern, compiled in patterns.items():
            if not any(compiled.match(item.nodeid) for item in items):
                raise pytest.UsageError(f"{EXHAUSTIVE}: {pattern!r} matches no test")


def pytest_collection_finish():
    """What was imported stays: leave it out of what the collections of garbage look at."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    """Let the processes of a run share what they compile; the first one makes the folder."""
    # Files are handed to the workers in their order, so that the small ones of the doctests end the
    # run; xdist would put files of few tests last, among them those that take the longest.
    config.option.loadscopereorder = False
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="lnpjax-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Tests marked `compiled_as_by_users` run in a process of their own, without the flags above.

    Their subject is rounding, which differs between ways to compile.
    """
    if not (os.environ["XLA_FLAGS"] and pyfuncitem.get_closest_marker("compiled_as_by_users")):
        return None
    options = ("-q", "-p", "no:cacheprovider", "-m", "")  # the last: it may be an exhaustive one
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True


@pytest.fixture(scope="session")
def programs_made():
    """How many programs were made since the last time that they were let go of."""
    made = collections.Counter[str]()

    def count(event, seconds, **_):
        del seconds
        made[event] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    yield made
    jax.monitoring.unregister_event_duration_listener(count)


@pytest.fixture(scope="module", autouse=True)
def programs_of_the_module(programs_made):
    """Let go of programs once they are many: those of all modules need several gigabytes.

    Until then modules share them: each array operation on each shape is one, where none is in jit.
    """
    yield
    if programs_made.total() > PROGRAMS_KEPT:
        programs_made.clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("LNPJAX_DATA")
    if not folder:
        pytest.skip("needs the folder of real data that LNPJAX_DATA names")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A run of twelve steps with checkpoints of three of them; not to be written to.

    It takes as long as dozens of other tests: the first process that asks for it makes it for all.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    run, made = folder / "tiny" / "run", folder / "tiny" / "made"
    run.parent.mkdir(exist_ok=True)
    with (folder / "tiny" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if not made.exists():
            text = run.parent / "counting.txt"
            text.write_text(" ".join(str(number) for number in range(2000)))
            assert cli.main(tiny_runs.arguments(text, out=run)) == 0
            made.touch()
    return run


@pytest.fixture
def all_factored(monkeypatch):
    """Explicit kernels keep all gradients factored that can be, whatever that costs."""
    monkeypatch.setattr(
        "lnpjax.kernel._plan.choose_factored",
        lambda jacobian, _: (tuple(jacobian.factorings), 0.0),
    )
