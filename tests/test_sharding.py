from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from lnpjax.sharding import (
    SHORT_VECTOR,
    MeshShape,
    batch_sharding,
    gather_over_data,
    make_mesh,
    parameter_shardings,
    parameter_spec,
    place,
    replicated,
)

EIGHT = MeshShape(data=4, model=2)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data=4,model=2", (4, 2)),
        ("model=2, data=4", (4, 2)),
        ("model=16", (1, 16)),
        ("data=1", (1, 1)),
    ],
)
def test_shapes_are_read_in_any_order(text: str, shape: tuple[int, int]) -> None:
    parsed = MeshShape.parse(text)
    assert parsed == shape
    assert MeshShape.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text", ["", "4,2", "data=0", "data=-1", "data=2.5", "tensor=2", "data=2,data=2", "data=4,"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mesh: expected sizes of the axes data and model") as e:
        MeshShape.parse(text)
    assert repr(text) in str(e.value)


def test_a_mesh_of_another_number_of_devices_is_refused() -> None:
    message = (
        r"mesh: expected 8 devices for data=4,model=2 "
        r"\(set XLA_FLAGS=--xla_force_host_platform_device_count=8 for as many on a CPU\), got 1"
    )
    with pytest.raises(ValueError, match=message):
        make_mesh(EIGHT, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), ()),  # a count of steps
        ((4096,), ()),  # a gain
        ((SHORT_VECTOR,), (("model", "data"),)),
        ((256, 64), ("model", "data")),
        ((64, 256), ("data", "model")),
        ((64, 64), ("data", "model")),  # of equally long axes model takes the last
        ((3, 64), (None, ("model", "data"))),
        ((3, 6), (None, "model")),  # 6/2 = 3 is no multiple of 4
        ((4, 3), ("model",)),  # 4/2 = 2 is no multiple of 4
        ((12, 5), ("model",)),
        ((3, 5), ()),
        ((12, 64, 192), (None, "data", "model")),  # stacked layers
        ((0, 64), (None, ("model", "data"))),
    ],
)
def test_parameters_are_split_over_all_devices_where_their_axes_allow(
    shape: tuple[int, ...], spec: tuple[object, ...]
) -> None:
    assert tuple(parameter_spec(shape, EIGHT)) == spec


def test_axes_of_size_one_split_nothing() -> None:
    assert tuple(parameter_spec((64, 256), MeshShape(data=4))) == (None, "data")
    assert tuple(parameter_spec((64, 256), MeshShape(model=2))) == (None, "model")
    assert tuple(parameter_spec((64, 256), MeshShape())) == ()


def test_on_one_device_everything_stays_what_it_was() -> None:
    mesh = make_mesh("data=1", devices=jax.devices()[:1])
    assert set(mesh.axis_types) == {AxisType.Auto}
    params = {"kernel": np.arange(12.0, dtype=np.float32).reshape(3, 4), "bias": np.ones(4)}
    placed = place(params, parameter_shardings(params, mesh))
    gathered = jax.jit(lambda tree: gather_over_data(tree, mesh))(placed)
    for name, array in params.items():
        np.testing.assert_array_equal(gathered[name], array)
    keys = jax.random.split(jax.random.key(0), 3)
    assert jnp.array_equal(place(keys, replicated(mesh)), keys)
    assert place(np.arange(3), batch_sharding(mesh)).sharding == batch_sharding(mesh)
