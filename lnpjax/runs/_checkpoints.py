"""The leaves of a training state on disk, bit by bit: arrays, random keys and Python numbers.

What was written is told from what is read by SHA-256: of each array, of the rows that a checkpoint
accounts for, and of `checkpoint.json` itself. Files of earlier versions have none of these; what
is not recorded is not compared.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import import_extra, require
from lnpjax._base.files import write_atomically

_SEAL = "sha256"
_KEY_FIELDS = ("name", "idx", "key")  # one of these, in the kinds of keys that JAX has
_PARTS = ("step", "leaves", "keys", "weak", "extra", "metrics_bytes")


class DamagedError(ValueError):
    """What is on disk is not what was saved there."""


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of `jax.random.key`s."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a state by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}


def stored_names(tree: PyTree) -> list[str]:
    """Return what the leaves of a state are called on disk: the names on their path, and slashes.

    Where that would not tell leaves apart, they are numbered.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    names = ["/".join(_parts(path)) if path else "state" for path in paths]
    inner = {parent for name in names for parent in _parents(name)}
    clear = len(set(names)) == len(names) and not inner & set(names)
    whole = all(part for name in names for part in name.split("/"))
    return names if clear and whole else [str(i) for i in range(len(names))]


def _parts(path: tuple[Any, ...]) -> list[str]:
    """Return the names on a path, without the attribute that holds the array of an NNX variable."""
    keys = [getattr(key, field) for key in path for field in _KEY_FIELDS if hasattr(key, field)]
    is_attribute = path and isinstance(path[-1], jax.tree_util.GetAttrKey)
    return [str(key) for key in (keys[:-1] if is_attribute and keys[-1] == "value" else keys)]


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with a node for each name before a slash, as Orbax's own tools show it."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _pick(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        tree = tree[part]
    return tree


def holds_numbers(description: str) -> bool:
    """Return whether an array of such a `describe` is stored: Orbax has no empty ones."""
    return re.search(r"[\[,]0[\],]", description) is None


def describe(leaf: Any, name: str) -> str:
    """Return the dtype and shape of a leaf: "float32[3,2]", "key<fry>[]", "Python int"."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return f"Python {type(leaf).__name__}"
    is_array = hasattr(leaf, "shape") and str(getattr(leaf, "dtype", "object")) != "object"
    expected = "an array or a Python number"
    require(is_array, name, expected=expected, got=type(leaf).__name__, error=TypeError)
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def check_same_leaves(given: Mapping[str, str], saved: Mapping[str, str], where: str) -> None:
    """Raise a ValueError at the first leaf that differs between two descriptions of a state."""
    for name in dict.fromkeys([*given, *saved]):
        was, now = saved.get(name, "absent"), given.get(name, "absent")
        expected = f"the state of {where}, where {name} is {was}"
        require(was == now, "abstract_state", expected=expected, got=f"one where it is {now}")


def to_array(leaf: Any) -> np.ndarray | jax.Array:
    """Return a leaf as an array that Orbax can store."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    if isinstance(leaf, int) and np.asarray(leaf).dtype == object:  # more than 64 bits
        return np.frombuffer(leaf.to_bytes(leaf.bit_length() // 8 + 1, "little", signed=True), "u1")
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _orbax() -> Any:
    return import_extra("orbax.checkpoint", extra="run", purpose="saving and restoring checkpoints")


@contextlib.contextmanager
def _path_for_orbax(folder: Path) -> Iterator[Path]:
    """Yield a path of the folder that is not a pattern.

    Orbax globs the path that it saves to: in "runs/[1]" it would find nothing of what it wrote.
    """
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="lnpjax-") as place:
        link = Path(place) / "parent"
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


def _checkpointer(ocp: Any) -> Any:
    # Of this process alone: Orbax's own would wait for every process of `jax.distributed`.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def checksum(content: bytes | np.ndarray | jax.Array) -> str:
    """Return the SHA-256 of some bytes, or of an array with its dtype and shape."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(f"{content.dtype}{content.shape}".encode())
    octets = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
    digest.update(octets.data)
    return digest.hexdigest()


def write_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    """Write `checkpoint.json`, with the checksum of the rest of it."""
    seal = checksum(json.dumps(metadata).encode())
    write_atomically(file, json.dumps({**metadata, _SEAL: seal}, allow_nan=False))


def read_metadata(file: Path, step: int) -> dict[str, Any]:
    """Read the `checkpoint.json` of a step.

    Raises:
        DamagedError: if it is not what was written.
    """
    try:
        metadata = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file}: expected a JSON object, got: {error}") from error
    whole = isinstance(metadata, dict) and all(part in metadata for part in _PARTS)
    expected = f"a JSON object with {', '.join(_PARTS)}"
    require(whole, str(file), expected=expected, got="another", error=DamagedError)
    seal = metadata.pop(_SEAL, None)
    same = seal in (None, checksum(json.dumps(metadata).encode())) and metadata["step"] == step
    expected = f"what was saved of step {step}"
    require(same, str(file), expected=expected, got="something else", error=DamagedError)
    return metadata


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray | jax.Array]) -> dict[str, str]:
    """Store arrays in a folder, read them back, and return their checksums.

    Raises:
        OSError: if they cannot be stored, or are not what was stored.
    """
    stored = {name: array for name, array in arrays.items() if array.size}  # Orbax: no empty ones
    if not stored:
        return {}
    checksums = {name: checksum(array) for name, array in stored.items()}
    ocp = _orbax()
    restore_args = dict.fromkeys(stored, ocp.RestoreArgs(restore_type=np.ndarray))
    try:
        with _checkpointer(ocp) as checkpointer, _path_for_orbax(folder) as path:
            checkpointer.save(path, args=ocp.args.PyTreeSave(_nested(stored)))
            back = checkpointer.restore(path, args=_restore(ocp, restore_args))
    except Exception as error:  # the storage layers raise many kinds; all mean the file system
        raise OSError(f"{folder}: expected to store a checkpoint there, got: {error}") from error
    same = all(checksum(_pick(back, name)) == stored_as for name, stored_as in checksums.items())
    require(same, str(folder), expected="what was stored there", got="others", error=OSError)
    return checksums


def _restore(ocp: Any, restore_args: Mapping[str, Any]) -> Any:
    item = dict.fromkeys(restore_args, 0)
    return ocp.args.PyTreeRestore(item=_nested(item), restore_args=_nested(restore_args))


def read_arrays(
    folder: Path, targets: Mapping[str, Any], checksums: Mapping[str, str]
) -> dict[str, Any]:
    """Read all stored arrays, by the names that they were stored with.

    Args:
        folder: where `write_arrays` stored them.
        targets: like what was stored, for every array that is not empty; None gives a NumPy array.
        checksums: those that it returned; an array without one is not compared.

    Raises:
        DamagedError: if they are not what was stored.
    """
    if not targets:
        return {}
    ocp = _orbax()
    restore_args = {
        name: ocp.RestoreArgs(restore_type=np.ndarray)
        if is_key(target) or _sharding(target) is None
        else ocp.ArrayRestoreArgs(sharding=_sharding(target))
        for name, target in targets.items()
    }
    try:
        with _checkpointer(ocp) as checkpointer, _path_for_orbax(folder) as path:
            tree = checkpointer.restore(path, args=_restore(ocp, restore_args))
    except Exception as error:  # the storage layers raise many kinds; all mean the file
        raise DamagedError(
            f"{folder}: expected the arrays of a checkpoint, got: {error}"
        ) from error
    arrays = {name: _pick(tree, name) for name in targets}
    for name, array in arrays.items():
        here = not isinstance(array, jax.Array) or array.is_fully_addressable
        same = not here or checksums.get(name) in (None, checksum(array))
        expected = "the arrays that were saved there"
        require(same, str(folder), expected=expected, got="others", error=DamagedError)
    return arrays


def _sharding(target: Any) -> Any:
    # An array that was not committed to a device must not come back committed to one: jit refuses
    # such an array together with others that live on a mesh.
    return getattr(target, "sharding", None) if getattr(target, "committed", True) else None


def to_leaf(array: Any, target: Any, *, key: str | None, weak: bool) -> Any:
    """Undo `to_array`: return a leaf like `target`."""
    if isinstance(array, jax.Array):
        return array
    if not hasattr(target, "shape"):
        if array.dtype == np.uint8:
            return int.from_bytes(array.tobytes(), "little", signed=True)
        return type(target)(array.item())
    if key is not None:
        keys = (
            jax.random.split(jax.random.key(0, impl=key), target.shape)  # a shape with a 0 has none
            if array is None
            else jax.random.wrap_key_data(array, impl=key)
        )
        return keys if _sharding(target) is None else jax.device_put(keys, _sharding(target))
    array = np.zeros(target.shape, target.dtype) if array is None else array
    if isinstance(target, np.ndarray | np.generic):
        return array if isinstance(target, np.ndarray) else array[()]
    # Promotion depends on weak types, so a lost one would change later steps. Only scalars have
    # them in practice, and a Python number makes one.
    return jnp.asarray(array.item()) if weak and array.shape == () else jnp.array(array)
