"""From a PyTorch module: the same outputs, and a tied weight is one parameter."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax

torch = pytest.importorskip("torch", reason="torch is an extra of its own")
# Releases of torchax that are older than those of torch fail on import with an AttributeError.
try:
    import torchax  # noqa: F401
except Exception as error:
    pytest.skip(f"torchax does not import: {error}", allow_module_level=True)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.hidden = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens, scale=1.0):
        hidden = torch.tanh(self.hidden(self.embedding(tokens)))
        return scale * self.head(self.norm(hidden.transpose(1, 2)).transpose(1, 2))


TOKENS = np.array([[1, 2, 3], [4, 5, 6]], np.int32)


def network():
    torch.manual_seed(0)
    return Network().eval()


def test_outputs_and_names():
    module = network()
    apply_fn, params, state = lnpjax.from_torch(module, with_state=True, scale=2.0)
    expected = module(torch.tensor(TOKENS), scale=2.0).detach().numpy()
    np.testing.assert_allclose(apply_fn(params, TOKENS), expected, atol=1e-5)
    assert sorted(params) == ["embedding", "hidden", "norm"]
    assert sorted(state["norm"]) == ["num_batches_tracked", "running_mean", "running_var"]
    moved = {"norm": state["norm"] | {"running_mean": jnp.ones(4)}}
    assert np.max(np.abs(apply_fn(params, TOKENS, moved) - expected)) > 0.1


def test_the_norm_is_that_of_autograd_with_the_weight_used_twice():
    module = network()
    apply_fn, params = lnpjax.from_torch(module)
    total = 0.0
    for row in TOKENS:
        outputs = module(torch.tensor(row[None])).reshape(-1)
        for output in outputs:
            gradients = torch.autograd.grad(output, list(module.parameters()), retain_graph=True)
            total += sum(float((g**2).sum()) for g in gradients)
    norm = lnpjax.squared_jacobian_norm(apply_fn, params, TOKENS, estimator=lnpjax.Exact())
    np.testing.assert_allclose(norm.value, total, rtol=1e-4)


def test_other_modules_are_refused():
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got int"):
        lnpjax.from_torch(3)
