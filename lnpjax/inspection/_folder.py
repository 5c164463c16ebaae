"""The folder of an inspection: what is kept of it, part by part."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from lnpjax._base.checks import require
from lnpjax._base.files import write_atomically
from lnpjax.inspection._inspect import Outcome, inspect_network
from lnpjax.inspection._parts import PARTS
from lnpjax.inspection._reports import inspection_report
from lnpjax.inspection._subject import DEFAULT_OPTIONS, InspectionOptions, Subject
from lnpjax.inspection._units import unit_of_number
from lnpjax.pretraining.environment import environment
from lnpjax.runs._lines import encode, null_to_nan

NUMBERS_FILE, ARRAYS_FILE, REPORT_FILE = "inspect.json", "inspect.npz", "report.html"
FIGURES = "figures"


def inspect_into(
    folder: Path,
    subject: Subject,
    about: Mapping[str, Mapping[str, Any]],
    options: InspectionOptions = DEFAULT_OPTIONS,
    *,
    key: Key[Array, ""],
    parts: Sequence[str] | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> Iterator[Outcome]:
    """Inspect a network, and keep every part in a folder as soon as it is measured.

    `inspect.json` holds the numbers, with units and flags; `inspect.npz` the arrays;
    `figures/*.png`; and `report.html` is all of it on one page. An interrupted inspection leaves
    all four with the parts that were done.

    Args:
        folder: where to write; what an earlier inspection wrote there is replaced.
        subject: the network and its two batches.
        about: what the page says of the model and the data: tables of names and values by heading.
        options: how much is measured.
        key: of the random probes.
        parts: names of parts, in `lnpjax.inspection.PARTS`; None for all.
        report: called with a line of text before each part.

    Yields:
        The outcome of each part, after it was written.

    Raises:
        TypeError, ValueError: as `inspect_network`, before anything is written.
        OSError: if the folder cannot be written to.

    Example:
        >>> import tempfile, jax
        >>> import jax.numpy as jnp
        >>> from lnpjax.pretraining import cross_entropy
        >>> batch = (jnp.zeros((4, 2), int), jnp.ones((4, 2), int))
        >>> subject = Subject("table", lambda w, x: w[x], jnp.eye(3), cross_entropy, batch, batch)
        >>> folder, key = Path(tempfile.mkdtemp()), jax.random.key(0)
        >>> done = list(inspect_into(folder, subject, {}, key=key, parts=["loss"]))
        >>> round(read_inspection(folder)["parts"]["loss"]["numbers"]["chance"], 4)
        1.0986
    """
    outcomes = inspect_network(subject, options, key=key, parts=parts, report=report)
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "name": subject.name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "about": {name: encode(table, name) for name, table in about.items()},
        "environment": environment(),
        "parts": {},
    }
    return _kept(folder, subject.name, document, outcomes)


def _kept(
    folder: Path, name: str, document: dict[str, Any], outcomes: Iterator[Outcome]
) -> Iterator[Outcome]:
    arrays: dict[str, np.ndarray] = {}
    for outcome in outcomes:
        document["parts"][outcome.part] = _record(outcome) | _draw(folder, name, outcome)
        if outcome.findings is not None:
            found = outcome.findings.arrays
            arrays |= {f"{outcome.part}/{label}": value for label, value in found.items()}
        stored = BytesIO()
        np.savez_compressed(stored, allow_pickle=False, **arrays)
        write_atomically(folder / ARRAYS_FILE, stored.getvalue())
        text = json.dumps(document, indent=1, allow_nan=False)
        write_atomically(folder / NUMBERS_FILE, text + "\n")
        page = inspection_report(read_inspection(folder), folder / FIGURES)
        write_atomically(folder / REPORT_FILE, page)
        yield outcome


def _record(outcome: Outcome) -> dict[str, Any]:
    """Return what is written of a part."""
    record: dict[str, Any] = {"seconds": round(outcome.seconds, 2)}
    findings = outcome.findings
    if findings is None:
        return record | {"error": outcome.error}
    numbers = encode(findings.numbers, outcome.part)
    units = {name: unit_of_number(outcome.part, name) for name in _names(numbers)}
    return record | {"numbers": numbers, "units": units, "flags": findings.flags}


def _names(numbers: Mapping[str, Any]) -> Iterator[str]:
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from _names(value)
        elif name != "status":
            yield name


def _draw(folder: Path, name: str, outcome: Outcome) -> dict[str, Any]:
    """Draw the figures of a part; one that fails is said, and its numbers stay."""
    drawn, failed = [], {}
    for figure in PARTS[outcome.part].figures:
        file = folder / FIGURES / f"{figure.name}.png"
        file.unlink(missing_ok=True)
        if outcome.findings is None:
            continue
        try:
            figure.draw(outcome.findings.measured, file, name)
            drawn.append(figure.name)
        except Exception as problem:
            failed[figure.name] = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
    return {"figures": drawn, "figures_failed": failed}


def read_inspection(folder: Path) -> dict[str, Any]:
    """Read what `inspect_into` wrote to `inspect.json`.

    Args:
        folder: of the inspection.

    Returns:
        The document; numbers that are not finite are NaN.

    Raises:
        ValueError: if the file is not of that form.
        OSError: if there is none.

    Example:
        >>> read_inspection(Path("nowhere"))
        Traceback (most recent call last):
            ...
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere/inspect.json'
    """
    file = folder / NUMBERS_FILE
    try:
        document = json.loads(file.read_bytes(), object_hook=null_to_nan)
        has_parts = isinstance(document, dict) and isinstance(document.get("parts"), dict)
        require(has_parts, "top level", expected="an object with 'parts'", got=document)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected what lnpjax inspect writes, got: {error}") from error
    return document
