"""Whether something became slower or larger than in the committed results for such a machine.

Costs are compared as ratios to a plain step (or gradient) of the same run, which the machine's
speed leaves alone; seconds are not. A cost has changed if it differs by more than 10 %, and by more
than the spreads of both runs, the plain steps' included, allow. Both are relative to the committed
cost or to one plain step, whichever is more: of next to nothing, any difference is large. Memory
has changed if it differs by more than 5 %.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import NamedTuple

import jax

import lnpjax
from benchmarks import tables

RESULTS = Path(__file__).parent / "results"
COSTS = ("cost_in_plain_steps", "gradients_per_product", "cost_in_gradients")
MEMORY = ("scratch_megabytes", "planned_megabytes", "peak_megabytes", "megabytes")
COST_MARGIN, MEMORY_MARGIN = 0.10, 0.05
SOFTWARE = ("lnpjax", "jax", "jaxlib", "flax", "optax", "numpy")
REGRESSIONS = ("slower", "more memory", "not measured")


class Change(NamedTuple):
    """A quantity of a row that differs from its committed value."""

    row: dict
    quantity: str
    old: float
    new: float | None
    change: float | None  # relative to what the margin is relative to
    verdict: str  # "slower", "faster", "more memory", "less memory", "not measured"


def environment(load_before):
    """What the numbers depend on; to be called when the work is done, for the load after it."""
    devices = jax.devices()
    return {
        "lnpjax": lnpjax._version.__version__,  # which need not be installed
        **{name: importlib.metadata.version(name) for name in SOFTWARE[1:]},
        "python": platform.python_version(),
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "x64": jax.config.jax_enable_x64,
        "xla_flags": os.environ.get("XLA_FLAGS") or None,
    }


def machine(environment):
    """What has to agree for two results to be comparable; older results lack the last two."""
    return (
        environment["device"],
        environment["cores"],
        environment.get("devices", 1),
        environment.get("x64", False),
    )


def committed(environment, folder=RESULTS):
    """The results in a folder that were made on a machine like this one, by file name."""
    results = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {
        name: result
        for name, result in results.items()
        if machine(result["environment"]) == machine(environment)
    }


def identity(row):
    """What tells a row from others: its text, but for the name of the benchmark."""
    texts = {key: value for key, value in row.items() if isinstance(value, str)}
    texts.pop("benchmark", None)
    return texts | {"compute": row.get("compute", "float32")}  # as before there was a choice


def matching(row, rows):
    """The last of these rows that measured the same, or None.

    Older results do not name their benchmark; where both do, the names agree.
    """
    for other in reversed(rows):
        same_benchmark = other.get("benchmark", row.get("benchmark")) == row.get("benchmark")
        if same_benchmark and identity(other) == identity(row):
            return other
    return None


def changes(rows, old_rows):
    """Everything that differs from the committed rows by more than its margin."""
    pairs = [(row, matching(row, old_rows)) for row in rows]
    found = [
        change(row, old, quantity, noise=math.hypot(spread(row, rows), spread(old, old_rows)))
        for row, old in pairs
        if old is not None
        for quantity in (*COSTS, *MEMORY)
        if old.get(quantity) is not None and quantity in row
    ]
    return [change for change in found if change is not None]


def spread(row, rows):
    """That of a row's cost: its own and the one of the plain step that it is divided by."""

    def group(row):
        return {key: text for key, text in identity(row).items() if key != "variant"}

    plain = [
        other.get("spread") or 0
        for other in rows
        if other.get("variant", "").startswith("plain step") and group(other) == group(row)
    ]
    return math.hypot(row.get("spread") or 0, *plain[:1])


def change(row, old_row, quantity, *, noise):
    """The change of one quantity, or None if it is within its margin; `noise` widens a cost's."""
    old, new = old_row[quantity], row[quantity]
    if new is None:
        return Change(row, quantity, old, new, None, "not measured")
    if quantity in COSTS:
        base, verdicts = max(old, 1.0), ("slower", "faster")
        margin = max(COST_MARGIN, noise)
    else:
        base, verdicts = old, ("more memory", "less memory")
        margin = MEMORY_MARGIN
    relative = (new - old) / base if base else math.copysign(math.inf, new) if new else 0.0
    if abs(relative) <= margin:
        return None
    return Change(row, quantity, old, new, relative, verdicts[relative < 0])


def report(results, file=None):
    """What differs from the committed results, or a file's, as text; and whether for the worse."""
    environment, rows = results["environment"], results["rows"]
    others = {file.name: json.loads(file.read_text())} if file else committed(environment)
    used = {
        name: other
        for name, other in others.items()
        if any(matching(row, other["rows"]) for row in rows)
    }
    old_rows = [row for other in used.values() for row in other["rows"]]
    matched = sum(matching(row, old_rows) is not None for row in rows)
    found = changes(rows, old_rows)
    title = f"{matched} of {len(rows)} rows have committed results to compare with"
    lines = [
        title,
        *(origin(name, other["environment"], environment) for name, other in used.items()),
        table(found) if found else "nothing differs by more than its margin" if used else "",
    ]
    return "\n".join(filter(None, lines)), any(c.verdict in REGRESSIONS for c in found)


def origin(name, old, new):
    """Where results come from, and what was not the same there."""
    same = machine(old) == machine(new)
    names = [*SOFTWARE, *([] if same else ["device", "cores", "devices", "x64"])]
    other = [f"{key} {old[key]}" for key in names if key in old and old[key] != new[key]]
    return f"  {name}" + (f" ({', '.join(other)})" if other else "")


def table(found):
    return tables.render(
        [change._asdict() for change in found],
        title="",
        label=lambda change: ", ".join(identity(change["row"]).values()),
        columns={
            "": ("verdict", ""),
            "quantity": ("quantity", ""),
            "old": ("old", ".4g"),
            "new": ("new", ".4g"),
            "change": ("change", "+.0%"),
        },
    )
