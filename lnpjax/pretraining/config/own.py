"""Models of one's own: a function in a Python file, `--model my_file.py:make_model`.

The file is code that is trusted: it runs as it is. It runs because someone has named it in a
command or in a call, and never because the `config.json` of a run names it, which may be a
stranger's.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from lnpjax._base.checks import require

MakeModel: TypeAlias = Callable[..., nnx.Module]
"""``make_model(input_shape, num_outputs, *, rngs)``: a module from samples of that shape to logits.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig:
    """A model of one's own, as a run remembers it.

    Attributes:
        file: where the code is, as an absolute path.
        function: the function's name.
        checksum: of the file (SHA-256), so that a run does not go on with other code.
        input_shape: of one sample.
        num_outputs: classes, or tokens of the vocabulary.
        num_parameters: as the function made them.
    """

    file: str
    function: str
    checksum: str
    input_shape: tuple[int, ...]
    num_outputs: int
    num_parameters: int


def is_own(model: str | None) -> bool:
    """Return whether the name of a model is that of a function in a file.

    Example:
        >>> is_own("my_file.py:make_model"), is_own("vit"), is_own(None)
        (True, False, False)
    """
    return model is not None and ":" in model


def load_function(model: str) -> MakeModel:
    """Run a Python file, and return one of its functions.

    Args:
        model: ``FILE:NAME``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be run, or has no function of that name.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mine.py"
        >>> _ = file.write_text("def make_model(input_shape, num_outputs, *, rngs): ...")
        >>> load_function(f"{file}:make_model").__name__
        'make_model'
    """
    file, name = _place(model)
    return _function(file, name, _checksum(file))


def own_config(
    model: str, *, input_shape: tuple[int, ...], num_outputs: int, positions: int | None
) -> OwnConfig:
    """Describe a model of one's own, after a look at what its function makes.

    Args:
        model: ``FILE:NAME``; the file is run.
        input_shape: of one sample.
        num_outputs: classes, or tokens of the vocabulary.
        positions: of a sample with one target for each; None where it has one label.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be run, has no such function, or the function fails, makes
            something else than a Flax NNX module, or one whose outputs have another shape.
    """
    file, name = _place(model)
    checksum = _checksum(file)
    make_model = _function(file, name, checksum)
    module = make_own(make_model, input_shape, num_outputs, nnx.Rngs(0))
    _check_outputs(module, input_shape, num_outputs, positions)
    leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
    got = "none, in a " + type(module).__name__
    require(bool(leaves), "model", expected="a module with parameters (nnx.Param)", got=got)
    return OwnConfig(
        file=str(file),
        function=name,
        checksum=checksum,
        input_shape=input_shape,
        num_outputs=num_outputs,
        num_parameters=sum(leaf.size for leaf in leaves),
    )


def check_same_code(config: OwnConfig, model: str) -> None:
    """Refuse a file that is not what a run was started with.

    Args:
        config: of the run.
        model: ``FILE:NAME``, as named now.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds other code, or the name is another.
    """
    file, name = _place(model)
    expected = f"the function {config.function}, with which the run was started"
    require(name == config.function, "model", expected=expected, got=name)
    expected = f"the code that the run was started with (SHA-256 {config.checksum[:12]}...)"
    got = f"other code in {file}"
    require(_checksum(file) == config.checksum, "model", expected=expected, got=got)


def make_own(
    make_model: MakeModel, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs
) -> nnx.Module:
    """Call a function that makes a model; refuse what is not one.

    Raises:
        ValueError: if it fails, or returns something else than a Flax NNX module.

    Example:
        >>> make_own(lambda shape, outputs, *, rngs: 7, (8, 8, 1), 10, nnx.Rngs(0))
        Traceback (most recent call last):
            ...
        ValueError: model: expected a function that returns a flax.nnx.Module, got int
    """
    try:
        module = make_model(input_shape, num_outputs, rngs=rngs)
    except Exception as error:  # it is someone else's code
        name = getattr(make_model, "__name__", "make_model")
        call = f"{name}({input_shape}, {num_outputs}, rngs=...)"
        raise ValueError(f"model: {call} fails: {type(error).__name__}: {error}") from error
    expected, got = "a function that returns a flax.nnx.Module", type(module).__name__
    require(isinstance(module, nnx.Module), "model", expected=expected, got=got)
    return module


def _check_outputs(
    module: nnx.Module, input_shape: tuple[int, ...], num_outputs: int, positions: int | None
) -> None:
    shape = (2, *input_shape)
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32 if positions is None else jnp.int32)
    graph, state = nnx.split(module)

    def call(inputs: jax.Array) -> jax.Array:
        return nnx.merge(graph, state, copy=True)(inputs)

    try:
        outputs = jax.eval_shape(call, inputs)
    except Exception as error:  # it is someone else's code
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"model: its call on inputs of shape {shape} fails: {reason}") from error
    wanted = (2, num_outputs) if positions is None else (2, positions, num_outputs)
    expected = f"logits of shape {wanted} from inputs of shape {shape}"
    got = getattr(outputs, "shape", type(outputs).__name__)
    require(got == wanted, "model", expected=expected, got=got)


def _place(model: str) -> tuple[Path, str]:
    path, _, name = model.rpartition(":")
    file = Path(path).absolute()
    expected = "FILE.py:FUNCTION, of a Python file that is there"
    is_file = file.suffix == ".py" and file.is_file()
    require(is_file, "model", expected=expected, got=repr(model), error=FileNotFoundError)
    return file, name


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache  # by its content: a file runs once
def _function(file: Path, name: str, checksum: str) -> MakeModel:
    module_name = f"lnpjax_model_{file.stem}_{checksum[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is someone else's code
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"model: {file} cannot be run: {reason}") from error
    function = getattr(module, name, None)
    there = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    expected = f"the name of a function in {file} (there are {', '.join(there) or 'none'})"
    require(callable(function), "model", expected=expected, got=repr(name))
    assert function is not None
    return function
