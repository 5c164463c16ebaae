"""Meshes of devices, and which part of an array each device holds.

A mesh has two axes: ``data``, over which the samples of a batch are spread, and ``model``. The
parameters, and the optimizer's state, are spread over both, so that no device holds more than its
share. Every measurement is called as on one device: it takes arrays that lie on a mesh, and XLA
adds the communication.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lnpjax._base.checks import require

SHORT_VECTOR = 2**16
"""Vectors with fewer entries are replicated: gathering them costs more than keeping them."""


class MeshShape(NamedTuple):
    """How many devices there are along each axis of a mesh.

    Example:
        >>> str(MeshShape(data=4, model=2)), MeshShape(data=4, model=2).size
        ('data=4,model=2', 8)
    """

    data: int = 1
    model: int = 1

    @property
    def size(self) -> int:
        """How many devices the mesh has."""
        return self.data * self.model

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a shape as it is written on the command line.

        Args:
            text: sizes of the axes by their names, such as ``"data=4,model=2"``; an axis that is
                left out has size 1.

        Returns:
            The shape.

        Raises:
            ValueError: if the text has another form, another axis, or an axis twice.

        Example:
            >>> MeshShape.parse("data=8")
            MeshShape(data=8, model=1)
        """
        parts = [part.strip() for part in text.split(",")]
        matches = [re.fullmatch(r"(data|model)=0*([1-9]\d*)", part) for part in parts]
        sizes = {match[1]: int(match[2]) for match in matches if match}
        require(
            len(sizes) == len(parts),
            "mesh",
            expected="sizes of the axes data and model, such as data=4,model=2",
            got=repr(text),
        )
        return cls(**sizes)

    def __str__(self) -> str:
        return f"data={self.data},model={self.model}"


def make_mesh(shape: MeshShape | str, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices in a mesh with the axes ``data`` and ``model``.

    The axes are of type `AxisType.Auto`: XLA decides how intermediate results are spread. The
    devices along ``model`` are neighbours, in one process as far as they fit there.

    Args:
        shape: how many devices along each axis, or its text (see `MeshShape.parse`).
        devices: the devices; all devices of all processes, if None.

    Returns:
        The mesh.

    Raises:
        ValueError: if the shape is invalid, or does not need as many devices as there are.

    Example:
        >>> make_mesh("data=1,model=1", devices=jax.devices()[:1]).axis_names
        ('data', 'model')
    """
    shape = MeshShape.parse(shape) if isinstance(shape, str) else shape
    devices = jax.devices() if devices is None else devices
    forced = f"XLA_FLAGS=--xla_force_host_platform_device_count={shape.size}"
    advice = f" (set {forced} for as many on a CPU)" if devices[0].platform == "cpu" else ""
    require(
        len(devices) == shape.size,
        "mesh",
        expected=f"{shape.size} devices for {shape}{advice}",
        got=f"{len(devices)}",
    )
    return jax.make_mesh(shape, shape._fields, (AxisType.Auto,) * 2, devices=devices)


def parameter_shardings(params: PyTree, mesh: Mesh) -> PyTree:
    """Return how parameters, or an optimizer's state, are spread over a mesh, without copies.

    Each leaf is split over ``model`` along the longest of its axes that this divides, and over
    ``data`` along the longest of the others that this divides; where no other does, along the same
    axis. What nothing divides, scalars, and vectors of fewer than `SHORT_VECTOR` entries are
    replicated. Only the shape of a leaf counts, so that the moments that an optimizer keeps lie
    where their parameters do.

    Args:
        params: a pytree of arrays, or of their `jax.ShapeDtypeStruct`.
        mesh: the mesh, from `make_mesh`.

    Returns:
        A `jax.sharding.NamedSharding` for every leaf, in the structure of `params`.

    Example:
        >>> mesh = make_mesh("data=1,model=1", devices=jax.devices()[:1])
        >>> shardings = parameter_shardings({"kernel": np.ones((8, 32)), "bias": np.ones(8)}, mesh)
        >>> shardings["bias"].is_fully_replicated
        True
    """
    sizes = MeshShape(**mesh.shape)
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, parameter_spec(np.shape(leaf), sizes)), params
    )


def gather_over_data(params: PyTree, mesh: Mesh) -> PyTree:
    """Gather parameters for a step: whole along ``data``, still split over ``model``.

    Without this, XLA lets the parameters decide how activations are spread, and moves those. To be
    called under `jit`, where parameters are used; the gradient is spread as they are.

    Args:
        params: spread by `parameter_shardings`.
        mesh: the mesh, from `make_mesh`.

    Returns:
        The same parameters, of which each device holds the share of its place along ``model``.

    Example:
        >>> mesh = make_mesh("data=1", devices=jax.devices()[:1])
        >>> jax.jit(lambda params: gather_over_data(params, mesh))({"w": np.ones((2, 2))})["w"]
        Array([[1., 1.],
               [1., 1.]], dtype=float32)
    """
    sizes = MeshShape(model=mesh.shape["model"])
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(
            leaf, NamedSharding(mesh, parameter_spec(leaf.shape, sizes))
        ),
        params,
    )


def parameter_spec(shape: tuple[int, ...], sizes: MeshShape) -> PartitionSpec:
    """Return over which axes of a mesh each axis of a parameter is split.

    The rule is that of `parameter_shardings`.

    Args:
        shape: of the parameter.
        sizes: of the mesh.

    Example:
        >>> sizes = MeshShape(data=4, model=2)
        >>> tuple(parameter_spec((256, 64), sizes)), tuple(parameter_spec((256, 3), sizes))
        (('model', 'data'), (('model', 'data'),))
        >>> tuple(parameter_spec((64, 256), sizes)), tuple(parameter_spec((256,), sizes))
        (('data', 'model'), ())
    """
    if len(shape) < 2 and math.prod(shape) < SHORT_VECTOR:
        return PartitionSpec()
    names: list[tuple[str, ...]] = [()] * len(shape)
    rests = list(shape)  # what is left of each axis once it is split
    for name in ("model", "data"):
        size = getattr(sizes, name)
        fitting = [axis for axis, rest in enumerate(rests) if rest and rest % size == 0]
        if size == 1 or not fitting:
            continue
        # One that is not split yet before one that is; of these the longest, the last of equals.
        axis = max(fitting, key=lambda axis: (not names[axis], rests[axis], axis))
        names[axis] += (name,)
        rests[axis] //= size
    entries = [split[0] if len(split) == 1 else split or None for split in names]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return how a batch is spread: its leading axis over ``data``; copied along ``model``.

    Args:
        mesh: the mesh, from `make_mesh`.

    Example:
        >>> tuple(batch_sharding(make_mesh("data=1,model=1", devices=jax.devices()[:1])).spec)
        ('data',)
    """
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding by which every device of the mesh holds the whole array.

    Args:
        mesh: the mesh, from `make_mesh`.

    Example:
        >>> replicated(make_mesh("data=1", devices=jax.devices()[:1])).is_fully_replicated
        True
    """
    return NamedSharding(mesh, PartitionSpec())


def place(tree: PyTree, shardings: Any) -> PyTree:
    """Put arrays onto the devices of a mesh, each device its part.

    Args:
        tree: a pytree of arrays; where several processes take part, of numpy arrays which every
            process holds whole and alike.
        shardings: a sharding for each leaf, or one for all of them (or for all below a node).

    Returns:
        The same arrays, of `jax.Array`s with these shardings.

    Raises:
        ValueError: if a sharding does not divide its array.

    Example:
        >>> mesh = make_mesh("data=1,model=1", devices=jax.devices()[:1])
        >>> place({"x": np.arange(3)}, batch_sharding(mesh))["x"]
        Array([0, 1, 2], dtype=int32)
    """
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def put(array: Any, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(np.shape(array), sharding, lambda index: array[index])

    return jax.tree.map(put, tree, jax.tree.broadcast(shardings, tree))
