"""Measure the parts of an inspection, one after the other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from jaxtyping import Array, Key

from lnpjax._base.checks import check_key, import_extra, require
from lnpjax.inspection._measures import Findings
from lnpjax.inspection._parts import PARTS
from lnpjax.inspection._subject import DEFAULT_OPTIONS, InspectionOptions, Subject
from lnpjax.jacobian._contract import check_training_batch


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one part of an inspection, made by `inspect_network`.

    Attributes:
        part: its name, a key of `lnpjax.inspection.PARTS`.
        findings: what it found; None where it failed.
        error: why it failed, in a sentence; None where it did not.
        seconds: that it took, compilation included.

    Example:
        >>> Outcome("loss", None, "ValueError: ...", 0.1).findings is None
        True
    """

    part: str
    findings: Findings | None
    error: str | None
    seconds: float


def inspect_network(
    subject: Subject,
    options: InspectionOptions = DEFAULT_OPTIONS,
    *,
    key: Key[Array, ""],
    parts: Sequence[str] | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> Iterator[Outcome]:
    """Measure what there is to measure of a trained network, part by part.

    What a part fails at ends that part alone.

    Args:
        subject: the network and its two batches.
        options: how much is measured.
        key: of the random probes; each part has its own, whichever others are measured.
        parts: names of parts, in `lnpjax.inspection.PARTS`; None for all.
        report: called with a line of text before each part.

    Yields:
        The outcome of each part, when it is there.

    Raises:
        TypeError, ValueError: before anything is measured, for bad options, keys, or batches that
            do not fit the network.

    Cost: about ``(3 + p) k 4/3`` gradients for k products and p probes, and 10 more. For small
    networks, compilation takes longer than that.

    Example:
        >>> import jax.numpy as jnp
        >>> from lnpjax.pretraining import cross_entropy
        >>> batch = (jnp.zeros((4, 2), int), jnp.ones((4, 2), int))
        >>> subject = Subject("table", lambda w, x: w[x], jnp.eye(3), cross_entropy, batch, batch)
        >>> (outcome,) = inspect_network(subject, key=jax.random.key(0), parts=["loss"])
        >>> round(outcome.findings.numbers["a"]["loss"], 3)
        1.551
    """
    options.check()
    check_key("key", key, drawn_by="inspect_network")
    names = tuple(PARTS) if parts is None else tuple(parts)
    unknown = [name for name in names if name not in PARTS]
    require(not unknown, "parts", expected=f"some of {list(PARTS)}", got=unknown)
    for argument, batch in (("batch_a", subject.batch_a), ("batch_b", subject.batch_b)):
        check_training_batch(
            subject.apply_fn, subject.loss_fn, subject.params, batch, argument=argument
        )
    return _measured(subject, options, key, names, report)


def _measured(
    subject: Subject,
    options: InspectionOptions,
    key: Key[Array, ""],
    names: tuple[str, ...],
    report: Callable[[str], object],
) -> Iterator[Outcome]:
    # Factorisations of small matrices by several threads of BLAS, which wait for one another while
    # the machine is busy, were found to take a hundred times as long as by one.
    threads = import_extra("threadpoolctl", extra="run", purpose="spectra of matrices")
    for number, name in enumerate(names, 1):
        report(f"{number} of {len(names)}: {PARTS[name].title.lower()}")
        own_key = jax.random.fold_in(key, list(PARTS).index(name))
        began = time.perf_counter()
        findings, error = None, None
        try:
            with threads.threadpool_limits(1, user_api="blas"):
                findings = PARTS[name].measure(subject, options, own_key)
        except Exception as problem:  # whatever one part fails at, the others can do without it
            error = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        yield Outcome(name, findings, error, time.perf_counter() - began)
