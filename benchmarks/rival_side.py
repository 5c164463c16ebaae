"""perspic at work: its analysis of a cross batch, its single probes, and where it goes wrong."""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from benchmarks import torch_llama


def import_perspic(path):
    """The modules of a checkout, and Lightning, which it is a part of."""
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    return importlib.import_module("perspic"), importlib.import_module("pytorch_lightning")


class Rival:
    """perspic on a Llama and two batches, on as many threads as there are cores."""

    def __init__(self, path, config, params, batch_a, batch_b):
        perspic, lightning = import_perspic(path)
        torch.set_num_threads(os.cpu_count())
        torch.manual_seed(0)

        class Module(lightning.LightningModule):
            def __init__(self, model):
                super().__init__()
                self.model, self.criterion, self.logged = model, torch_llama.cross_entropy, {}

            def log(self, name, value, **_):
                self.logged[name] = value

        self.batches = [
            tuple(torch.tensor(np.asarray(part), dtype=torch.long) for part in batch)
            for batch in (batch_a, batch_b)
        ]
        self.model = torch_llama.load(config, params)
        self.module = perspic.analyzer(
            Module, model=self.model, cross_response=True, opacus_approximate_with_n=1
        )
        self.norms = perspic.SamplewiseCalculatorOpacus._compute_per_sample_gradient_norm_network

    def analyse(self, num_probes):
        """One whole analysis, as perspic's training step starts it: all that it logs, by name."""
        self.module.sample_calc.approximate_with_n = num_probes
        batch_a, batch_b = self.batches
        self.module._before_training_step(batch_a, 0, batch_b)
        return {name: float(value) for name, value in self.module.logged.items()}

    def draws(self, count):
        """``|J_i|^2`` from single probes: for each batch ``(count, batch)``."""

        def once(inputs):
            return self.norms(self.model, inputs, reduce=False, approximate_with_n=1).numpy()

        return [
            np.stack([once(inputs) for _ in range(count)]).astype(np.float64)
            for inputs, _ in self.batches
        ]

    def logits(self):
        """On batch A."""
        with torch.no_grad():
            return self.model(self.batches[0][0]).numpy()

    def gradient(self):
        """A plain forward and backward pass on A, to tell the engine's speed from the method's."""
        inputs, targets = self.batches[0]
        self.model.zero_grad()
        torch_llama.cross_entropy(self.model(inputs), targets).backward()


class Plain(nn.Module):
    """A table, a layer and a read-out."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)

    def forward(self, tokens):
        return self.head(torch.tanh(self.layer(self.table(tokens))))


class TiedModule(Plain):
    """The read-out layer holds the table's weight."""

    def __init__(self):
        super().__init__()
        self.head.weight = self.table.weight


class TiedFunction(Plain):
    """The table's weight read out by a function, not by a layer."""

    def __init__(self):
        super().__init__()
        del self.head

    def forward(self, tokens):
        hidden = torch.tanh(self.layer(self.table(tokens)))
        return functional.linear(hidden, self.table.weight)


class UsedTwice(Plain):
    """The same linear layer twice in a row."""

    def forward(self, tokens):
        hidden = torch.tanh(self.layer(self.table(tokens)))
        return self.head(torch.tanh(self.layer(hidden)))


class RawParameter(Plain):
    """A parameter that belongs to no layer."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(5, 4))

    def forward(self, tokens):
        return self.head(torch.tanh(self.layer(self.table(tokens) + self.shift)))


class PositionTable(Plain):
    """Learned positions, looked up once for all samples."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(5, 4)

    def forward(self, tokens):
        embedded = self.table(tokens) + self.positions(torch.arange(5))
        return self.head(torch.tanh(self.layer(embedded)))


def correctness(path):
    """perspic's exact ``|J|_F^2`` of small networks, against their dense Jacobian in float64."""
    perspic, _ = import_perspic(path)
    norms = perspic.SamplewiseCalculatorOpacus._compute_per_sample_gradient_norm_network
    tokens = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(0))
    rows = []
    for kind in (Plain, TiedModule, TiedFunction, UsedTwice, RawParameter, PositionTable):
        torch.manual_seed(1)
        model = kind()
        exact = kind().double()
        exact.load_state_dict(model.state_dict())
        jacobian = jacrev(outputs_of(exact, tokens))(dict(exact.named_parameters()))
        try:
            found, said = float(norms(model, tokens)), ""
        except (NotImplementedError, RuntimeError, AttributeError) as error:
            found, said = None, f"{type(error).__name__}: {error}"
        rows.append(
            {
                "network": f"{kind.__name__}: {kind.__doc__}",
                "exact": sum(float(block.detach().square().sum()) for block in jacobian.values()),
                "perspic": found,
                "error": said,
            }
        )
    return rows


def outputs_of(model, tokens):
    """The outputs as a function of the parameters."""
    return lambda params: functional_call(model, params, (tokens,))
