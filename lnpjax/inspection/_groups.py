"""Parameter groups of networks made of blocks, and their order from the input to the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lnpjax.pretraining.lens import depth

FIRST = ("embedding", "positions", "class_token", "patches")
LAST = ("norm", "head")
_NORM = "_norm"


def block_of(path: str) -> str:
    """Name the group of a parameter: its part of its layer, or what it belongs to outside of them.

    The norm in front of a part counts with it.

    Example:
        >>> block_of("layers/0/attention/query/kernel"), block_of("layers/0/attention_norm/scale")
        ('layers/0/attention', 'layers/0/attention')
        >>> block_of("layers/3/kernel"), block_of("head/kernel")
        ('layers/3', 'head')
    """
    names = path.split("/")
    if len(names) > 2 and names[1].isdecimal():
        part = names[2:3] if len(names) > 3 else []
        return "/".join(names[:2] + [name.removesuffix(_NORM) for name in part])
    return names[0]


def layer_of(group: str) -> str:
    """Name the layer of a group of `block_of`.

    Example:
        >>> layer_of("layers/0/attention"), layer_of("head")
        ('layers/0', 'head')
    """
    return "/".join(group.split("/")[:2])


def kind_of(group: str) -> str:
    """Name what a group of `block_of` is in every layer.

    Example:
        >>> kind_of("layers/0/attention"), kind_of("head")
        ('attention', 'head')
    """
    names = group.split("/")
    return names[2] if len(names) > 2 else names[0]


def depth_of(path: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort paths from the input to the output: embeddings, layers, the last norm, the head.

    Example:
        >>> sorted(["head", "layers/10", "norm", "layers/2", "embedding"], key=depth_of)
        ['embedding', 'layers/2', 'layers/10', 'norm', 'head']
    """
    first = path.split("/")[0]
    place = 0 if first in FIRST else 2 + LAST.index(first) if first in LAST else 1
    return place, depth(path)


def joined(
    groups: Mapping[str, Mapping[str, float]], chi_loss: float, key: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """Add up groups: of every layer (`layer_of`), or of every kind (`kind_of`).

    delta_loss and chi_net add up, and chi_pos follows (*Spectral Reach*, eq. 49). How the errors of
    the parts go together is not known here; together they are at most their sum.

    Args:
        groups: numbers of `lnpjax.GroupLNP`.
        chi_loss: of the whole.
        key: what groups that belong together have in common.

    Returns:
        The same numbers of what belongs together; errors are upper bounds.

    Example:
        >>> part = {"delta_loss": 1.0, "chi_net": 2.0, "chi_net_sem": 0.1}
        >>> layers = joined({"layers/0/a": part, "layers/0/b": part}, 2.0, layer_of)
        >>> layers["layers/0"]["chi_net"], layers["layers/0"]["chi_pos"]
        (4.0, 0.25)
    """
    together: dict[str, list[Mapping[str, float]]] = {}
    for name, numbers in groups.items():
        together.setdefault(key(name), []).append(numbers)
    return {name: _sum(parts, chi_loss) for name, parts in together.items()}


def _sum(parts: list[Mapping[str, float]], chi_loss: float) -> dict[str, Any]:
    delta_loss, chi_net, sem = (
        sum(part[name] for part in parts) for name in ("delta_loss", "chi_net", "chi_net_sem")
    )
    scale = chi_loss * chi_net
    chi_pos = delta_loss / scale if scale else math.nan
    error = abs(chi_pos) * sem / chi_net if chi_net else math.nan
    return {
        "delta_loss": delta_loss,
        "chi_net": chi_net,
        "chi_pos": chi_pos,
        "chi_net_sem": sem,
        "chi_pos_sem": error,
    }
