"""What the numbers of a run depend on besides its configuration, and what became of it since."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from lnpjax._base.checks import require
from lnpjax._base.reporting import Reporter
from lnpjax._version import __version__
from lnpjax.runs import differences

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
HARMLESS = frozenset({"python", "XLA_FLAGS"})
"""Parts whose change is mentioned, but seldom changes a number."""


def environment() -> dict[str, Any]:
    """Return releases, settings of JAX and the kind of device, as a run records them.

    Example:
        >>> list(environment())[:3]
        ['lnpjax', 'jax', 'jaxlib']
    """
    device = jax.devices()[0]
    return {
        "lnpjax": __version__,
        **{name: metadata.version(name) for name in PACKAGES},
        **{name: _setting(name) for name in SETTINGS},
        "device": f"{device.platform} ({device.device_kind})",
        "python": platform.python_version(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _setting(name: str) -> Any:
    value = getattr(jax.config, name)
    return "default" if value is None else value


def check_environment(
    recorded: Mapping[str, Any] | None,
    present: Mapping[str, Any],
    where: str,
    *,
    reporter: Reporter,
    force: bool,
) -> None:
    """Refuse to go on where the numbers would differ from those of an uninterrupted run.

    Args:
        recorded: what `environment` returned when the checkpoint was saved; None for one of an
            earlier version, which did not record it.
        present: what it returns now.
        where: the run, for the message.
        reporter: receives what differs.
        force: go on all the same.

    Raises:
        ValueError: if something differs that changes numbers, and not `force`.

    Example:
        >>> check_environment(
        ...     {"jax": "0.10.1"}, {"jax": "0.11.2"}, "runs/a", reporter=Reporter(), force=False
        ... )
        Traceback (most recent call last):
            ...
        ValueError: runs/a: expected jax 0.10.1, with which it was made (--force goes on all the
            same, with other numbers than an uninterrupted run), got 0.11.2
    """
    if recorded is None:
        return
    changes = differences(recorded, present)
    for name, was, now in changes:
        if name in HARMLESS:
            reporter.note(f"{name} was {was}, is {now}")
    decisive = [change for change in changes if change[0] not in HARMLESS]
    if decisive and force:
        text = ", ".join(f"{name} was {was}, is {now}" for name, was, now in decisive)
        reporter.warn(f"numbers differ from those of an uninterrupted run: {text}")
        return
    remedy = "(--force goes on all the same, with other numbers than an uninterrupted run)"
    require(
        not decisive,
        where,
        expected=f"{', '.join(f'{name} {was}' for name, was, _ in decisive)}, with which it was "
        f"made {remedy}",
        got=", ".join(str(now) for _, _, now in decisive),
    )
