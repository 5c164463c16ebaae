"""Shared fixtures. Tests run on the CPU, in float32 unless they ask for `x64`."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled once and run once: compile them cheaply. An XLA_FLAGS of
# one's own wins.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
)

import jax
import pytest


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
