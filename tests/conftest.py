"""Shared fixtures. Tests run on the CPU, in float32 unless they ask for `x64`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

# Oracles compile the same programs in many tests: let them, and parallel workers, share the work.
_CACHE = tempfile.mkdtemp(prefix="lnpjax-tests-") if "PYTEST_XDIST_WORKER" not in os.environ else ""
os.environ.setdefault("LNPJAX_TEST_CACHE", _CACHE)
jax.config.update("jax_compilation_cache_dir", os.environ["LNPJAX_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


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


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["LNPJAX_TEST_CACHE"], ignore_errors=True)
