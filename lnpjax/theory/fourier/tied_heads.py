"""What a tied head cannot express, and what tying costs (*Spectral Lens*, F.15, F.16).

Linear maps from tokens to logits through an embedding E of full row rank: tied ``E^T A E``, untied
``W^T A E`` (*Spectral Lens*, eq. 126). Errors are in the Frobenius norm.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_kernel, concrete, require


def _row_basis(embedding: Array) -> Float[Array, "vocabulary width"]:
    """Return an orthonormal basis of ``col(E^T)``."""
    check_kernel("embedding", embedding, symmetric=False)
    values = concrete(embedding)
    rank = embedding.shape[0] if values is None else int(np.linalg.matrix_rank(values))
    require(
        rank == embedding.shape[0],
        "embedding",
        expected=f"full row rank {embedding.shape[0]}",
        got=f"rank {rank} of shape {embedding.shape}",
    )
    return jnp.linalg.qr(embedding.T)[0]


def output_projector(
    embedding: Float[Array, "width vocabulary"],
) -> Float[Array, "vocabulary vocabulary"]:
    """Return the orthogonal projector P onto ``col(E^T)``, the outputs of a tied head (F.16).

    Args:
        embedding: E, of full row rank.

    Raises:
        TypeError: if it is not a floating-point array.
        ValueError: if it is not a matrix, or known not to have full row rank.

    Example:
        >>> abs(output_projector(jnp.array([[0.0, 2.0]]))).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    basis = _row_basis(embedding)
    return basis @ basis.T


def _check_map(embedding: Array, target: Array) -> None:
    check_kernel("target", target, symmetric=False)
    size = embedding.shape[-1]
    require(
        target.shape == (size, size),
        "target",
        expected=f"a map from tokens to logits, ({size}, {size})",
        got=f"shape {target.shape}",
    )


def best_tied_map(
    embedding: Float[Array, "width vocabulary"], target: Float[Array, "vocabulary vocabulary"]
) -> Float[Array, "vocabulary vocabulary"]:
    """Return the ``E^T A E`` nearest to a target in the Frobenius norm, ``P T* P``.

    ``{E^T A E}`` is all of ``{P X P}``: a tied map is confined on both sides (F.15). So `target` is
    tied if and only if this is the target itself.

    Args:
        embedding: E, of full row rank.
        target: ``T*``.

    Raises:
        TypeError: if one is not a floating-point array.
        ValueError: if shapes do not match, or E is known not to have full row rank.

    Example:
        >>> best_tied_map(jnp.array([[0.0, 2.0]]), jnp.ones((2, 2))).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    projector = output_projector(embedding)
    _check_map(embedding, target)
    return projector @ target @ projector


def best_untied_map(
    embedding: Float[Array, "width vocabulary"], target: Float[Array, "vocabulary vocabulary"]
) -> Float[Array, "vocabulary vocabulary"]:
    """Return the ``W^T A E`` nearest to a target in the Frobenius norm, ``T* P``.

    ``{W^T A E} = {B E} = {X P}`` (*Spectral Lens*, eq. 127): confined on the input side
    alone.

    Args and errors are those of `best_tied_map`.

    Example:
        >>> best_untied_map(jnp.array([[0.0, 2.0]]), jnp.ones((2, 2))).tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """
    projector = output_projector(embedding)
    _check_map(embedding, target)
    return target @ projector


def tied_error(
    embedding: Float[Array, "width vocabulary"], target: Float[Array, "vocabulary vocabulary"]
) -> Float[Array, ""]:
    """Return the least Frobenius error of a tied map, ``|T* - P T* P|``.

    Its square is that of `tied_error_bound` and ``|P T* (I - P)|^2`` more: what tied maps miss on
    the output side and on the input side.

    Args and errors are those of `best_tied_map`.

    Example:
        >>> print(f"{tied_error(jnp.array([[0.0, 2.0]]), jnp.ones((2, 2))) ** 2:.1f}")
        3.0
    """
    return jnp.linalg.norm(target - best_tied_map(embedding, target))


def untied_error(
    embedding: Float[Array, "width vocabulary"], target: Float[Array, "vocabulary vocabulary"]
) -> Float[Array, ""]:
    """Return the least Frobenius error of an untied map, ``|T* (I - P)|``.

    What a tied head costs at this embedding is ``tied^2 - untied^2 = |(I - P) T* P|^2``. It is not
    `tied_error_bound`: where the target maps ``col(E^T)`` into itself, as a cyclic shift does when
    the embedding consists of whole Fourier modes, tying costs nothing, while the bound may be
    large.

    Args and errors are those of `best_tied_map`.

    Example:
        >>> print(f"{untied_error(jnp.array([[0.0, 2.0]]), jnp.ones((2, 2))) ** 2:.1f}")
        2.0
    """
    return jnp.linalg.norm(target - best_untied_map(embedding, target))


def tied_error_bound(
    embedding: Float[Array, "width vocabulary"], target: Float[Array, "vocabulary vocabulary"]
) -> Float[Array, ""]:
    """Return the paper's lower bound on `tied_error`, ``|(I - P) T*|`` (F.16).

    *Spectral Lens*, eq. 139. Sharp if and only if ``P T* (I - P) = 0``, as it is for every
    ``T* = B E``.

    Args and errors are those of `best_tied_map`.

    Example:
        >>> print(f"{tied_error_bound(jnp.array([[0.0, 2.0]]), jnp.ones((2, 2))) ** 2:.1f}")
        2.0
    """
    projector = output_projector(embedding)
    _check_map(embedding, target)
    return jnp.linalg.norm(target - projector @ target)


def embedding_width(target: Float[Array, "vocabulary vocabulary"], *, tied: bool) -> Int[Array, ""]:
    """Return the least width at which SOME embedding makes a target exact.

    F.15 and F.16 hold the embedding fixed. If it is learned too, an untied head needs
    ``rank T*``, and a tied one ``rank [T*, T*^T]``, a subspace that holds both outputs and inputs:
    never more than twice as much, and no more at all if T* is normal (a cyclic shift, say).

    Args:
        target: ``T*``.
        tied: whether the head is tied.

    Returns:
        The width, an integer; ranks are numerical.

    Raises:
        TypeError: if it is not a floating-point array.
        ValueError: if it is not square.

    Example:
        >>> outer = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> int(embedding_width(outer, tied=False)), int(embedding_width(outer, tied=True))
        (1, 2)
    """
    check_kernel("target", target, symmetric=False)
    _check_map(target, target)
    both = jnp.concatenate([target, target.T], axis=1) if tied else target
    return jnp.linalg.matrix_rank(both)
