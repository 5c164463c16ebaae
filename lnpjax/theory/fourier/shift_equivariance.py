"""Rotary and absolute positions under a shift of the sequence (*Spectral Lens*, F.13, F.14)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float

from lnpjax._base.checks import check_count, check_kernel, require
from lnpjax.models.rotary import rotary_angles, rotate_pairs


def _check_attention(inputs: Array, query: Array, key: Array, first_position: int) -> None:
    for argument, matrix in (("inputs", inputs), ("query", query), ("key", key)):
        check_kernel(argument, matrix, symmetric=False)
    require(
        query.shape == key.shape and query.shape[1] == inputs.shape[1],
        "query",
        expected=f"the shape of key, (head, {inputs.shape[1]})",
        got=f"shape {query.shape} for keys of shape {key.shape}",
    )
    check_count("first_position", first_position, least=0)


def rotary_scores(
    inputs: Float[Array, "time width"],
    query: Float[Array, "head width"],
    key: Float[Array, "head width"],
    *,
    first_position: int = 0,
    base: float = 10000.0,
) -> Float[Array, "time time"]:
    """Return attention scores ``<R_i W_q x_i, R_j W_k x_j>`` with rotary positions.

    *Spectral Lens*, eq. 108. They do not change when the sequence is moved,
    ``a_(i+tau, j+tau)(S_tau x) = a_ij(x)`` (F.13): depending on `first_position` not at all. This
    is a symmetry in position. That of the modular task, in the phase, is the same only for shifts
    of the phase by a multiple of the task's step: one position on is one step in the phase,
    ``S_tau x(a) = x(a - tau d)``.

    Args:
        inputs: x, the position first.
        query: ``W_q``, with an even head width.
        key: ``W_k``.
        first_position: where the sequence stands, >= 0.
        base: base of the rotary frequencies.

    Returns:
        The scores, not scaled; queries first.

    Raises:
        TypeError: if one is not a floating-point array.
        ValueError: if shapes do not match, the head width is odd, or the position is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> here = rotary_scores(x, jnp.eye(2), jnp.eye(2))
        >>> there = rotary_scores(x, jnp.eye(2), jnp.eye(2), first_position=5)
        >>> bool(jnp.allclose(here, there, atol=1e-5))
        True
    """
    _check_attention(inputs, query, key, first_position)
    head = query.shape[0]
    require(head % 2 == 0, "query", expected="an even head width", got=head)
    length = first_position + len(inputs)
    angles = rotary_angles(length, head, base=base, dtype=inputs.dtype)[first_position:]
    turned = [rotate_pairs(inputs @ w.T, angles, interleaved=True) for w in (query, key)]
    return turned[0] @ turned[1].T


def absolute_scores(
    inputs: Float[Array, "time width"],
    query: Float[Array, "head width"],
    key: Float[Array, "head width"],
    table: Float[Array, "position width"],
    *,
    first_position: int = 0,
) -> Float[Array, "time time"]:
    """Return attention scores ``<W_q (x_i + p_i), W_k (x_j + p_j)>``, positions from a table.

    *Spectral Lens*, eq. 116. They change when the sequence is moved, unless neither projection sees
    a difference between positions (F.14; `surviving_positions`).

    Args:
        inputs: x, the position first.
        query: ``W_q``.
        key: ``W_k``.
        table: p, one row for every position.
        first_position: where the sequence stands, >= 0.

    Returns:
        The scores, not scaled; queries first.

    Raises:
        TypeError: if one is not a floating-point array.
        ValueError: if shapes do not match, or the sequence reaches beyond the table.

    Example:
        >>> import jax.numpy as jnp
        >>> x, table = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0], [2.0, 0.0]])
        >>> [absolute_scores(x, jnp.eye(2), jnp.eye(2), table, first_position=i).item()
        ...  for i in (0, 1)]
        [1.0, 4.0]
    """
    _check_attention(inputs, query, key, first_position)
    placed = inputs + _positions(inputs, table, first_position)
    return (placed @ query.T) @ (placed @ key.T).T


def _positions(inputs: Array, table: Array, first: int) -> Array:
    check_kernel("table", table, symmetric=False)
    last = first + len(inputs)
    require(
        table.shape[1] == inputs.shape[1] and first >= 0 and last <= len(table),
        "table",
        expected=f"at least {last} positions of width {inputs.shape[1]}, from 0",
        got=f"shape {table.shape} and a first position {first}",
    )
    return table[first:last]


def shift_defect(
    scores: Callable[[int], Float[Array, "time time"]], shift: int
) -> Float[Array, "time time"]:
    """Return how scores change as the sequence moves, ``a_(i+tau, j+tau)(S_tau x) - a_ij(x)``.

    Args:
        scores: from the first position of the sequence to its scores.
        shift: tau >= 0.

    Returns:
        The change; zero for `rotary_scores`.

    Raises:
        ValueError: if the shift is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> shift_defect(lambda first_position: jnp.full((1, 1), 2 * first_position), 3).tolist()
        [[6]]
    """
    check_count("shift", shift, least=0)
    return scores(shift) - scores(0)


def absolute_shift_change(
    inputs: Float[Array, "time width"],
    query: Float[Array, "head width"],
    key: Float[Array, "head width"],
    table: Float[Array, "position width"],
    shift: int,
) -> Float[Array, "time time"]:
    """Return the `shift_defect` of `absolute_scores` in closed form.

    *Spectral Lens*, eqs. 120 and 121. Two terms are linear in one token and a change of position at
    the other; what remains depends on positions alone. All of them vanish for all inputs only if
    the positional terms do (F.14).

    Args:
        inputs: x, the position first.
        query: ``W_q``.
        key: ``W_k``.
        table: p, one row for every position.
        shift: tau >= 0.

    Raises:
        TypeError: if one is not a floating-point array.
        ValueError: if shapes do not match, or the sequence reaches beyond the table.

    Example:
        >>> import jax.numpy as jnp
        >>> x, table = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0], [2.0, 0.0]])
        >>> absolute_shift_change(x, jnp.eye(2), jnp.eye(2), table, 1).item()
        3.0
    """
    _check_attention(inputs, query, key, shift)
    before, after = _positions(inputs, table, 0), _positions(inputs, table, shift)
    form, moved = query.T @ key, after - before
    tokens = inputs @ form @ moved.T + moved @ form @ inputs.T
    return tokens + after @ form @ after.T - before @ form @ before.T


def surviving_positions(
    table: Float[Array, "position width"], weight: Float[Array, "head width"]
) -> Float[Array, "position head"]:
    """Return what a projection sees of differences between positions, ``W (p_t - mean p)``.

    *Spectral Lens*, eq. 118. Scores of an absolute table are equivariant to shifts if it is zero
    for ``W_q`` and ``W_k``, and where both have full row rank only then (F.14). Without full row
    rank there are other ways: ``W_q = 0``, say.

    Args:
        table: p, one row for every position.
        weight: ``W_q`` or ``W_k``.

    Raises:
        TypeError: if one is not a floating-point array.
        ValueError: if shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> table = jnp.array([[1.0, 5.0], [3.0, 5.0]])
        >>> surviving_positions(table, jnp.eye(2)).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    check_kernel("table", table, symmetric=False)
    check_kernel("weight", weight, symmetric=False)
    require(
        weight.shape[1] == table.shape[1],
        "weight",
        expected=f"rows of width {table.shape[1]}",
        got=f"shape {weight.shape}",
    )
    return (table - table.mean(axis=0)) @ weight.T
