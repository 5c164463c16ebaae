"""Bad input is refused before anything is computed, by a message that names the argument."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Windows
from lnpjax.jacobian import linearize_samples

KEY = jax.random.key(0)
PARAMS = {"body": {"kernel": np.ones((3, 2), np.float32)}, "scale": np.ones((), np.float32)}
INPUTS = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
TARGETS = np.zeros((4, 2), np.float32)
BATCH = (INPUTS, TARGETS)
MASK = np.ones(4, bool)
evaluations = []


def count():
    """Note that compiled code ran: shape inference and tracing do not."""
    jax.debug.callback(lambda: evaluations.append(None))


def network(params, x):
    count()
    return params["scale"] * (x @ params["body"]["kernel"])


def loss(outputs, targets):
    count()
    return jnp.mean((outputs - targets) ** 2)


def norm(apply_fn=network, params=PARAMS, inputs=INPUTS, **options):
    return lnpjax.squared_jacobian_norm(apply_fn, params, inputs, **{"key": KEY} | options)


def linearize(apply_fn=network, params=PARAMS, inputs=INPUTS, **options):
    return lnpjax.linearize(apply_fn, params, inputs, **options)


def lnp(apply_fn=network, loss_fn=loss, *, batch_a=BATCH, batch_b=None, params=PARAMS, **options):
    made = {k: options.pop(k) for k in ("estimator", "wrt", "groups") if k in options}
    measure = lnpjax.lnp(apply_fn, loss_fn, **made)
    return measure(params, batch_a, batch_b, **{"key": KEY} | options)


@dataclasses.dataclass
class Output:
    logits: jax.Array


jax.tree_util.register_dataclass(Output)


class NamedOutput(NamedTuple):
    hidden: jax.Array
    logits: jax.Array


def changed(**leaves):
    return {**PARAMS, **leaves}


def test_good_input_is_accepted_and_counted():
    """The control: with good input these calls compute, and the counter sees it."""
    for call in (linearize, norm, lnp):
        evaluations.clear()
        call()
        jax.effects_barrier()
        assert evaluations


CASES = {
    # inputs
    "leading axes disagree": (
        lambda: norm(lambda p, x: x["a"], inputs={"a": INPUTS, "b": INPUTS[:3]}),
        ValueError,
        r"^inputs: expected leaves with equal first axes, got .*'inputs/a': 4, 'inputs/b': 3",
    ),
    "leading axes disagree (linearize)": (
        lambda: linearize(lambda p, x: x["a"], inputs={"a": INPUTS, "b": INPUTS[:3]}),
        ValueError,
        r"^inputs: expected leaves with equal first axes",
    ),
    "empty batch": (
        lambda: norm(inputs=INPUTS[:0]),
        ValueError,
        r"^inputs: .*at least one sample.*empty",
    ),
    "empty batch (lnp)": (
        lambda: lnp(batch_a=(INPUTS[:0], TARGETS[:0])),
        ValueError,
        r"^batch_a/inputs: .*at least one sample",
    ),
    "empty batch B": (
        lambda: lnp(batch_b=(INPUTS[:0], TARGETS[:0])),
        ValueError,
        r"^batch_b/inputs: .*at least one sample",
    ),
    "inputs without arrays": (
        lambda: norm(inputs={}),
        ValueError,
        r"^inputs: .*at least one array",
    ),
    "scalar input": (
        lambda: norm(inputs={"x": INPUTS, "t": 0.5}),
        ValueError,
        r"^inputs/t: expected an array whose first axis is the sample, got a scalar",
    ),
    # outputs
    "outputs a dict": (
        lambda: norm(lambda p, x: {"logits": network(p, x)}),
        TypeError,
        r"^outputs: expected one array .*\['logits'\]; select it: apply_fn=lambda.*\['logits'\]$",
    ),
    "outputs a dict (lnp)": (
        lambda: lnp(lambda p, x: {"logits": network(p, x)}),
        TypeError,
        r"^outputs: .*select it.*\['logits'\]$",
    ),
    "outputs a dict (linearize)": (
        lambda: linearize(lambda p, x: {"logits": network(p, x)}),
        TypeError,
        r"^outputs: .*select it.*\['logits'\]$",
    ),
    "outputs a tuple": (
        lambda: norm(lambda p, x: (network(p, x), x)),
        TypeError,
        r"^outputs: .*a tuple of 2; select it: .*\[0\]$",
    ),
    "outputs a dataclass": (
        lambda: norm(lambda p, x: Output(network(p, x))),
        TypeError,
        r"^outputs: .*Output with fields \['logits'\]; select it: .*\.logits$",
    ),
    "outputs a named tuple": (
        lambda: norm(lambda p, x: NamedOutput(x, network(p, x))),
        TypeError,
        r"^outputs: .*NamedOutput with fields \['hidden', 'logits'\]; select it: .*\.hidden$",
    ),
    "outputs a list": (
        lambda: norm(lambda p, x: [network(p, x)]),
        TypeError,
        r"^outputs: .*got list",
    ),
    "outputs nothing": (lambda: norm(lambda p, x: None), TypeError, r"^outputs: .*got NoneType"),
    "outputs integers": (
        lambda: norm(lambda p, x: jnp.argmax(network(p, x), axis=1)),
        TypeError,
        r"^outputs: expected a real floating-point array, got dtype int32",
    ),
    "outputs complex": (
        lambda: norm(lambda p, x: jnp.fft.fft(network(p, x))),
        TypeError,
        r"^outputs: expected a real floating-point array, got dtype complex64",
    ),
    "outputs a scalar": (
        lambda: norm(lambda p, x: jnp.sum(network(p, x))),
        ValueError,
        r"^outputs: expected a first axis of 4, the number of samples in inputs, got shape \(\)",
    ),
    "outputs with another first axis": (
        lambda: norm(lambda p, x: network(p, x)[:3]),
        ValueError,
        r"^outputs: expected a first axis of 4, .*got shape \(3, 2\)",
    ),
    "outputs of B are named after B": (
        lambda: lnp(lambda p, x: network(p, x)[:4], batch_b=(np.ones((5, 3)), np.ones((5, 2)))),
        ValueError,
        r"^outputs: expected a first axis of 5, the number of samples in batch_b/inputs",
    ),
    "no outputs": (
        lambda: norm(lambda p, x: network(p, x)[:, :0], estimator=Exact()),
        ValueError,
        r"^outputs: ",
    ),
    # the loss
    "loss not scalar": (
        lambda: lnp(loss_fn=lambda f, t: jnp.mean((f - t) ** 2, axis=1)),
        TypeError,
        r"^loss_fn: expected a floating-point scalar, the mean over samples, got .*4",
    ),
    "loss with auxiliaries": (
        lambda: lnp(loss_fn=lambda f, t: (loss(f, t), f)),
        TypeError,
        r"^loss_fn: expected a floating-point scalar",
    ),
    "loss an integer": (
        lambda: lnp(loss_fn=lambda f, t: jnp.sum(f > t)),
        TypeError,
        r"^loss_fn: expected a floating-point scalar",
    ),
    # batches
    "batch not a pair": (lambda: lnp(batch_a=INPUTS), ValueError, r"^batch_a: expected a pair"),
    "batch of three": (
        lambda: lnp(batch_a=(*BATCH, MASK)),
        ValueError,
        r"^batch_a: expected a pair \(inputs, targets\), got tuple of 3",
    ),
    "batch a dict": (
        lambda: lnp(batch_b={"inputs": INPUTS, "targets": TARGETS}),
        ValueError,
        r"^batch_b: expected a pair .*got dict",
    ),
    "targets with another first axis": (
        lambda: lnp(batch_a=(INPUTS, TARGETS[:3])),
        ValueError,
        r"^batch_a/targets: expected a first axis of 4, .*got shape \(3, 2\)",
    ),
    "targets of B, by name": (
        lambda: lnp(batch_b=(INPUTS, {"y": TARGETS, "w": np.ones(3)})),
        ValueError,
        r"^batch_b/targets/w: expected a first axis of 4",
    ),
    # parameters and subsets
    "integer parameter": (
        lambda: norm(params=changed(step=np.zeros((), np.int32))),
        TypeError,
        r"^params: expected real floating-point leaves \(leave 'step' out with wrt=\), got .*int32",
    ),
    "integer parameter (lnp)": (
        lambda: lnp(params=changed(step=np.zeros((), np.int32))),
        TypeError,
        r"^params: .*'step'",
    ),
    "complex parameter (linearize)": (
        lambda: linearize(params=changed(phase=np.ones((), np.complex64))),
        TypeError,
        r"^params: .*'phase' of dtype complex64",
    ),
    "no parameters": (
        lambda: norm(lambda p, x: x, params={}),
        ValueError,
        r"^wrt: .*without leaves",
    ),
    "unknown prefix": (
        lambda: norm(wrt="head"),
        ValueError,
        r"^wrt: expected path prefixes of the parameters \('body/kernel', 'scale'\), got 'head'",
    ),
    "one unknown prefix of two": (
        lambda: lnp(wrt=("scale", "bod")),
        ValueError,
        r"^wrt: .*got 'bod'$",
    ),
    "selects nothing": (
        lambda: linearize(wrt=lambda path: False),
        ValueError,
        r"^wrt: expected at least one trainable parameter among 'body/kernel', .*selection of none",
    ),
    "mask of parameters selects nothing": (
        lambda: norm(wrt={"body": False, "scale": False}),
        ValueError,
        r"^wrt: expected at least one",
    ),
    "mask of another structure": (
        lambda: norm(wrt={"body": True}),
        ValueError,
        r"^wrt: .*pytree of booleans .* does not match",
    ),
    "mask of numbers": (
        lambda: norm(wrt={"body": 1.0, "scale": 0.0}),
        TypeError,
        r"^wrt: expected Python booleans .*'float'",
    ),
    # groups
    "unknown group": (
        lambda: norm(groups=["body", "head"]),
        ValueError,
        r"^groups: expected path prefixes of the trainable parameters .*the unknown group 'head'",
    ),
    "frozen group": (
        lambda: lnp(wrt="scale", groups="body"),
        ValueError,
        r"^groups: .*unknown group 'body'",
    ),
    "by_depth(0)": (
        lambda: lnpjax.by_depth(0),
        ValueError,
        r"^depth: expected an integer >= 1, got 0",
    ),
    # estimators and keys
    **{
        f"{kind.__name__}({argument}={value})": (
            lambda kind=kind, argument=argument, value=value: kind(**{argument: value}),
            ValueError,
            rf"^{argument}: expected an integer >= 1, got {value}",
        )
        for kind, argument in (
            (Exact, "chunk_size"),
            (Exact, "microbatch_size"),
            (Hutchinson, "num_probes"),
            (Hutchinson, "microbatch_size"),
            (GlobalHutchinson, "num_probes"),
        )
        for value in (0, -1, 1.5)
    },
    "microbatch_size (linearize_samples)": (
        lambda: linearize_samples(network, PARAMS, INPUTS, microbatch_size=0),
        ValueError,
        r"^microbatch_size: expected an integer >= 1, got 0",
    ),
    "no key": (
        lambda: norm(key=None),
        ValueError,
        r"^key: expected a jax.random key, since Hutchinson draws random probes, got None",
    ),
    "no key (lnp)": (
        lambda: lnp(estimator=GlobalHutchinson(), key=None),
        ValueError,
        r"^key: .*GlobalHutchinson",
    ),
    "no estimator": (lambda: norm(estimator="exact"), (TypeError, ValueError), r"^estimator: "),
    "an estimator's class": (
        lambda: norm(estimator=Hutchinson),
        (TypeError, ValueError),
        r"^estimator: ",
    ),
    "unknown normalization": (
        lambda: lnpjax.lnp(network, loss, normalization="batch"),
        ValueError,
        r"^normalization: expected 'sample', 'token' or None, got 'batch'",
    ),
    # masks
    "mask of another shape": (
        lambda: norm(mask=MASK[:3]),
        ValueError,
        r"^mask: expected shape \(4,\), one flag per sample, got shape \(3,\)",
    ),
    "mask of numbers (norm)": (
        lambda: norm(mask=np.ones(4)),
        TypeError,
        r"^mask: expected booleans .*got dtype float",
    ),
    "mask_a": (lambda: lnp(mask_a=MASK[:, None]), ValueError, r"^mask_a: expected shape \(4,\)"),
    "mask_b": (
        lambda: lnp(batch_b=BATCH, mask_b=np.ones(4, int)),
        TypeError,
        r"^mask_b: expected booleans",
    ),
    "mask_b without B": (
        lambda: lnp(mask_b=MASK),
        ValueError,
        r"^mask_b: expected None where batch_b is None",
    ),
    # pytrees that go with the parameters
    "preconditioner of another structure": (
        lambda: norm(preconditioner={"scale": 1.0}),
        ValueError,
        r"^preconditioner: expected the structure of the trainable parameters",
    ),
    "preconditioner of another shape": (
        lambda: linearize(preconditioner=changed(scale=np.ones(2))),
        ValueError,
        r"^preconditioner/scale: expected shape \(\), got shape \(2,\)",
    ),
    "preconditioner of frozen leaves": (
        lambda: lnp(wrt="scale", preconditioner=PARAMS),
        ValueError,
        r"^preconditioner: expected the structure of the trainable parameters \(\['scale'\]\)",
    ),
    "gradient_a of another structure": (
        lambda: lnp(gradient_a={"body": PARAMS["body"]}),
        ValueError,
        r"^gradient_a: expected the structure",
    ),
    "gradient_a of another shape": (
        lambda: lnp(gradient_a=changed(body={"kernel": np.ones((2, 3))})),
        ValueError,
        r"^gradient_a/body/kernel: expected shape \(3, 2\), got shape \(2, 3\)",
    ),
    "params_after of another structure": (
        lambda: lnp(params_after=[PARAMS]),
        ValueError,
        r"^params_after: expected the structure",
    ),
    "params_after of another shape": (
        lambda: lnp(params_after=changed(scale=np.ones(1))),
        ValueError,
        r"^params_after/scale: expected shape",
    ),
    # schedules
    **{
        f"log_windows({arguments})": (
            lambda arguments=arguments: lnpjax.log_windows(**arguments),
            ValueError,
            pattern,
        )
        for arguments, pattern in (
            ({"max_steps": 0}, r"^max_steps: expected an integer >= 1, got 0"),
            ({"max_steps": 1e4}, r"^max_steps: expected an integer >= 1, got 10000.0"),
            ({"max_steps": 100, "per_decade": 0}, r"^per_decade: expected an integer >= 1"),
            ({"max_steps": 100, "width": 0}, r"^width: expected an integer >= 1"),
            ({"max_steps": 49}, r"^width: expected at most max_steps = 49, .*got 50"),
        )
    },
    "windows out of order": (
        lambda: Windows((3, 1), 2),
        ValueError,
        r"^starts: expected strictly increasing",
    ),
    "windows twice": (
        lambda: Windows((1, 1), 2),
        ValueError,
        r"^starts: expected strictly increasing",
    ),
    "windows before the start": (lambda: Windows((-1, 1), 2), ValueError, r"^starts: .*>= 0"),
    "windows of no width": (
        lambda: Windows((0,), 0),
        ValueError,
        r"^width: expected an integer >= 1",
    ),
    "state without a step": (
        lambda: lnpjax.instrument(
            lambda state, batch: (state, None),
            lnpjax.lnp(network, loss),
            lnpjax.log_windows(100),
            params_of=lambda state: state,
        )(PARAMS, BATCH, None, KEY),
        TypeError,
        r"^step_of: expected a function from the state to its step.*dict",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_before_any_work(name):
    call, error, message = CASES[name]
    evaluations.clear()
    with pytest.raises(error, match=message):
        call()
    jax.effects_barrier()
    assert not evaluations


@pytest.mark.parametrize("count_type", [np.int64, np.int32])
def test_numpy_integers_are_integers(count_type):
    """As `log_windows` takes them, so do the estimators."""
    assert Hutchinson(count_type(2)).num_probes == 2
    assert Exact(count_type(2)).chunk_size == 2


def test_bad_input_is_refused_under_jit_too():
    with pytest.raises(TypeError, match=r"^outputs: .*select it"):
        jax.jit(lambda p: norm(lambda p, x: {"logits": network(p, x)}, p).value)(PARAMS)
