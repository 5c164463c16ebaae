"""Bad input is refused before anything is computed, by a message that names the argument."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Windows
from lnpjax.jacobian._linearize import linearize_samples

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


def split_norm(ids):
    params = {"table": np.ones((3, 2), np.float32), "kernel": np.ones((2, 2), np.float32)}
    model = lnpjax.SplitModel(lambda p, h: h, embedding="table", readout="kernel")
    return norm(model, params, ids)


def changed(**leaves):
    return {**PARAMS, **leaves}


def test_good_input_is_accepted_and_counted():
    """The control: with good input these calls compute, and the counter sees it."""
    for call in (linearize, jax.jit(norm), jax.jit(lnp)):
        evaluations.clear()
        call()
        jax.effects_barrier()
        assert evaluations


def swapped_loss(outputs, targets):
    return jnp.mean((outputs["scale"] - targets) ** 2)


def drawing(key):
    """Everything that takes a key, with this one."""
    batch = (jnp.asarray(INPUTS), jnp.asarray(TARGETS))
    step = lnpjax.instrument(
        lambda state, batch: (state, None),
        lnpjax.lnp(network, loss),
        Windows((1,), 1),
        params_of=lambda state: PARAMS,
        step_of=lambda state: 0,
    )
    position = lnpjax.spectra.position_distribution(network, loss, num_matvecs=2)
    density = lnpjax.spectra.spectral_density
    gradients = lnpjax.lens.gradient_spectra(network, loss, weights="body/kernel", tail=(1, 4))
    activations = lnpjax.lens.activation_spectra(lambda p, x: {"x": network(p, x)})
    return {
        "squared_jacobian_norm": lambda: norm(key=key),
        "squared_jacobian_norm, nothing drawn": lambda: norm(key=key, estimator=Exact()),
        "lnp": lambda: lnp(key=key),
        "lnp, nothing drawn": lambda: lnp(key=key, estimator=Exact()),
        "position_distribution": lambda: position(PARAMS, batch, key=key),
        "spectral_density": lambda: density(network, PARAMS, INPUTS, num_matvecs=2, key=key),
        "gradient_spectra": lambda: gradients(PARAMS, batch, key=key),
        "activation_spectra": lambda: activations(PARAMS, batch, key=key),
        "instrument": lambda: step(None, batch, None, key),
    }


class Affine(nnx.Module):
    def __init__(self, features):
        self.linear = nnx.Linear(features, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        count()
        return self.linear(x)


def with_params_of(other):
    """A Flax module that is run with another's parameters."""
    return norm(lnpjax.from_nnx(Affine(3))[0], lnpjax.from_nnx(other)[1])


CASES = {
    # keys
    **{
        f"{name}(key={key})": (drawing(value)[name], error, message)
        for name in drawing(KEY)
        for key, value, error, message in (
            ("0", 0, TypeError, r"^key: expected a jax.random key, such as .*, got 0"),
            ("0.5", 0.5, TypeError, r"^key: expected a jax.random key, .*got 0.5"),
            ("text", "a", TypeError, r"^key: expected a jax.random key, .*got 'a'"),
            (
                "an array",
                np.ones(2),
                TypeError,
                r"^key: .* got an array of float64 of shape \(2,\)",
            ),
            (
                "several keys",
                jax.random.split(KEY),
                ValueError,
                r"^key: expected one jax.random key, of shape \(\), got .* of shape \(2,\)",
            ),
            (
                "several raw keys",
                jax.random.split(jax.random.PRNGKey(0), 3),
                ValueError,
                r"^key: expected one jax.random key, .*\(3,\)",
            ),
        )
    },
    "no key (spectral_density)": (
        drawing(None)["spectral_density"],
        ValueError,
        r"^key: expected a jax.random key, since spectral_density draws",
    ),
    "no key (position_distribution)": (
        drawing(None)["position_distribution"],
        ValueError,
        r"^key: expected a jax.random key, since Hutchinson draws",
    ),
    # the model, and the parameters that belong to it
    "params of another shape": (
        lambda: norm(params=changed(body={"kernel": np.ones((4, 2), np.float32)})),
        TypeError,
        r"^apply_fn: expected params and inputs that it takes, got params \{body/kernel: "
        r"float32\[4,2\], scale: float32\[\]\}, inputs float32\[4,3\], and so TypeError: dot",
    ),
    "params of another model": (
        lambda: lnp(params={"weights": np.ones((3, 2), np.float32)}),
        ValueError,
        r"^apply_fn: .* params \{weights: float32\[3,2\]\}, inputs .* KeyError: 'scale'",
    ),
    "params of another size, for a Flax module": (
        lambda: with_params_of(Affine(4)),
        ValueError,
        r"^params/linear/kernel: expected shape \(3, 2\), got shape \(4, 2\)",
    ),
    "params of another Flax module": (
        lambda: with_params_of(nnx.Linear(3, 2, rngs=nnx.Rngs(0))),
        ValueError,
        r"^params: expected the structure of the module's parameters \(\['linear/bias', "
        r"'linear/kernel'\]\), got .*, without 'linear/bias', 'linear/kernel', with 'bias'",
    ),
    **{
        f"{kind} among params ({name})": (
            lambda call=call, leaf=leaf: call(params=changed(extra=leaf), wrt="scale"),
            TypeError,
            rf"^params/extra: expected an array or a number .*, got {kind}",
        )
        for name, call in (("norm", norm), ("linearize", linearize), ("lnp", lnp))
        for kind, leaf in (("function", loss), ("str", "relu"), ("type", np.float32))
    },
    "apply_fn and loss_fn swapped": (
        lambda: lnp(swapped_loss, network),
        TypeError,
        r"^apply_fn: expected the model, .* swapped \(the order is apply_fn, loss_fn\)",
    ),
    "the loss for a model": (
        lambda: norm(lambda p, x: jnp.mean(network(p, x))),
        ValueError,
        r"^outputs: .* got shape \(\) \(a model gives a row for each sample; a loss",
    ),
    "apply_fn a number": (
        lambda: lnpjax.lnp(1, loss),
        TypeError,
        r"^apply_fn: expected a function",
    ),
    "loss_fn missing": (
        lambda: lnpjax.spectra.position_distribution(network, None),
        TypeError,
        r"^loss_fn: expected a function, got NoneType",
    ),
    "targets that do not fit the loss": (
        lambda: lnp(batch_a=(INPUTS, np.zeros((4, 3), np.float32))),
        TypeError,
        r"^loss_fn: expected outputs and targets that it takes, got outputs float32\[4,2\], "
        r"targets float32\[4,3\], and so TypeError: ",
    ),
    "ids outside of an embedding": (
        lambda: split_norm(np.array([[0, 3]])),
        ValueError,
        r"^inputs: expected ids from -3 to 2, got 0 to 3",
    ),
    "ids before an embedding": (
        lambda: split_norm(np.array([[-4, 1]])),
        ValueError,
        r"^inputs: expected ids from -3 to 2, got -4 to 1",
    ),
    "ids that are numbers": (
        lambda: split_norm(np.array([[0.0, 1.0]])),
        TypeError,
        r"^inputs: expected integer ids, got dtype float",
    ),
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
    "a Linen module as apply_fn": (
        lambda: lnpjax.lnp(linen.Dense(3), loss),
        TypeError,
        r"^apply_fn: .*params = lnpjax.from_linen\(module, variables\), got a module, Dense",
    ),
    "an NNX module as apply_fn": (
        lambda: lnpjax.lnp(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), loss),
        TypeError,
        r"^apply_fn: .*apply_fn, params = lnpjax.from_nnx\(module\), got a module, Linear",
    ),
    "outputs a dict": (
        lambda: norm(lambda p, x: {"logits": network(p, x)}),
        TypeError,
        r"^outputs: expected one array .*\['logits'\]; select it: apply_fn=lambda.*\['logits'\]; "
        r"for all of them together, lnpjax.jacobian.join_outputs$",
    ),
    "outputs a dict (lnp)": (
        lambda: lnp(lambda p, x: {"logits": network(p, x)}),
        TypeError,
        r"^outputs: .*select it.*\['logits'\]; for all",
    ),
    "outputs a dict (linearize)": (
        lambda: linearize(lambda p, x: {"logits": network(p, x)}),
        TypeError,
        r"^outputs: .*select it.*\['logits'\]; for all",
    ),
    "outputs a tuple": (
        lambda: norm(lambda p, x: (network(p, x), x)),
        TypeError,
        r"^outputs: .*a tuple of 2; select it: .*\[0\]; for all",
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
    "a group with the name of the rest": (
        lambda: norm(groups=("other",), params=changed(other=np.ones((), np.float32))),
        ValueError,
        r"^groups: .*'other', the name of the group of all others, got none for 'body/kernel', 's",
    ),
    "a group behind a wider one": (
        lambda: lnp(groups=("body", "body/kernel")),
        ValueError,
        r"^groups: expected .* \(narrow ones first\), got 'body/kernel' behind a wider one",
    ),
    "by_depth(1.5)": (
        lambda: lnpjax.by_depth(1.5),
        ValueError,
        r"^depth: expected an integer >= 1, got 1.5",
    ),
    # estimators and keys
    **{
        f"{kind.__name__}(None)": (
            lambda kind=kind: kind(None),
            ValueError,
            r"^(chunk_size|num_probes): expected an integer >= 1, got None",
        )
        for kind in (Exact, Hutchinson, GlobalHutchinson)
    },
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
    **{
        f"windows: {windows}": (
            lambda windows=windows: lnpjax.instrument(
                lambda state, batch: (state, None),
                lnpjax.lnp(network, loss),
                windows,
                params_of=lambda state: state,
            ),
            TypeError,
            r"^windows: expected a schedule, such as lnpjax.log_windows\(max_steps\) or",
        )
        for windows in ([0, 10], 100, None)
    },
    "windows that start between steps": (
        lambda: Windows((0.5,), 1),
        TypeError,
        r"^starts: expected integers, got 0.5",
    ),
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


@pytest.mark.parametrize("make", [list, tuple])
def test_a_mask_may_be_a_list(make):
    mask = np.array([True, True, False, True])
    for call in (
        lambda mask: norm(mask=mask, estimator=Exact()),
        lambda mask: lnp(batch_b=BATCH, mask_a=mask, mask_b=mask, estimator=Exact()),
    ):
        found, expected = call(make(mask.tolist())), call(mask)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(0), np.asarray(jax.random.PRNGKey(0))])
def test_raw_keys_are_keys(key):
    """`jax.random.PRNGKey` has the very bits of `jax.random.key`."""
    np.testing.assert_array_equal(norm(key=key).value, norm(key=KEY).value)


@pytest.mark.parametrize("count_type", [np.int64, np.int32])
def test_numpy_integers_are_integers(count_type):
    """As `log_windows` takes them, so do the estimators."""
    assert Hutchinson(count_type(2)).num_probes == 2
    assert Exact(count_type(2)).chunk_size == 2


def test_bad_input_is_refused_under_jit_too():
    with pytest.raises(TypeError, match=r"^outputs: .*select it"):
        jax.jit(lambda p: norm(lambda p, x: {"logits": network(p, x)}, p).value)(PARAMS)
