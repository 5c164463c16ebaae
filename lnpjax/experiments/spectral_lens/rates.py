"""How learning rates are searched at a batch size: candidates, and the halving of their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from lnpjax.experiments._harness.rates import rates_beyond

State = TypeVar("State")
SAME = 1.001  # candidates that are closer are one


def rate_candidates(
    ratio: float, multipliers: Sequence[float], *, base: float = 1.0
) -> list[float]:
    """Return candidates at a batch size, ascending, without duplicates (*Spectral Lens*, B.3).

    They are `multipliers` times each of two centres, ``ratio`` and its root, by which rates would
    scale with the batch size under SGD and under Adam.

    Args:
        ratio: of the batch size to that of the base rate.
        multipliers: of the centres.
        base: the rate that suits the ratio 1.

    Example:
        >>> rate_candidates(4.0, (0.5, 1.0, 2.0))
        [1.0, 2.0, 4.0, 8.0]
    """
    rates = sorted(
        base * center * multiplier
        for center in (math.sqrt(ratio), ratio)
        for multiplier in multipliers
    )
    distinct = rates[:1]
    for rate in rates[1:]:
        if rate > SAME * distinct[-1]:
            distinct.append(rate)
    return distinct


class Trial(NamedTuple):
    """A candidate at a rung.

    Attributes:
        rung: how far it was trained.
        rate: the candidate.
        loss: there.
    """

    rung: int
    rate: float
    loss: float


def successive_halving(
    candidates: Sequence[float],
    start: State,
    rungs: Sequence[int],
    *,
    advance: Callable[[State, float, int], State],
    loss_of: Callable[[State], float],
    extensions: int = 0,
) -> list[Trial]:
    """Keep the better half of the candidates at each rung, and one at the last (B.3).

    Args:
        candidates: rates; three or more with `extensions`.
        start: the state that all start from.
        rungs: how far candidates are trained before they are compared, ascending.
        advance: trains a state at a rate, so much further.
        loss_of: a state's; one that is not a number comes last.
        extensions: how often a further candidate is tried beyond an edge of them at which the best
            one lies at the first rung.

    Returns:
        All trials in their order, from worst to best at each rung: the last is the one left.

    Example:
        Where the loss is the distance of what was trained from 3:

        >>> trials = successive_halving(
        ...     [1.0, 2.0, 3.0, 4.0],
        ...     0.0,
        ...     [1, 2],
        ...     advance=lambda state, rate, steps: state + rate * steps / 2,
        ...     loss_of=lambda state: abs(3 - state),
        ... )
        >>> [trial.rate for trial in trials]
        [1.0, 2.0, 3.0, 4.0, 4.0, 3.0]
    """
    alive = dict.fromkeys(candidates, start)
    trials: list[Trial] = []
    previous = 0
    for rung in rungs:
        alive = {rate: advance(state, rate, rung - previous) for rate, state in alive.items()}
        losses = {rate: loss_of(state) for rate, state in alive.items()}
        for _ in range(extensions if rung == rungs[0] else 0):
            for rate in rates_beyond(losses, 1):
                alive[rate] = advance(start, rate, rung)
                losses[rate] = loss_of(alive[rate])
        ranked = sorted(losses, key=lambda rate: np.nan_to_num(losses[rate], nan=math.inf))
        trials += [Trial(rung, rate, losses[rate]) for rate in reversed(ranked)]
        last = rung == rungs[-1]
        kept = ranked[: 1 if last else math.ceil(len(ranked) / 2)]
        alive = {rate: alive[rate] for rate in kept}
        previous = rung
    return trials
