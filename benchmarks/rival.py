"""Against perspic, the papers' own package: the same network, weights and batches, in one run.

perspic (PyTorch and Opacus) is no dependency: its checkout is named on the command line, and torch,
opacus and pytorch-lightning must be installed. One measurement is one analysis of a cross batch, as
its training step starts it, against one call of `lnpjax.lnp`; both start from weights and two
batches and share nothing with a training step. perspic's analysis reports batch A by itself, too,
for which it needs no further pass. What either of them adds to a training step is in the last row
and in perspic's: that one adds its whole analysis, while ours uses the step's own passes over A.

Equal error. Both draw ``|J|_F^2`` with random signs: perspic with n probes that all samples of a
batch share, we with one for each sample. Both errors come from the spread of many single probes;
perspic's falls like ``1/sqrt(n)``.
At equal error, perspic has as many probes as the variances say (not rounded up), and takes as long
as a line through its times for a few n says: every probe is a forward and a backward pass for each
batch. From perspic's single probes, sample by sample, one can also read what probes of their own
would have done for its samples: the error below the table, a check on ours that is not our own.

The error depends on the weights. It is taken at the start of training as well as after some steps
on the words of Python's standard library: at the start, a network answers all samples alike, and a
probe's noise is common to all that share it.

Memory is the most by which the resident set of a process of its own grows during a measurement,
once another one is done (`benchmarks.rival_memory`). What XLA takes to compile is listed apart.

``python -m benchmarks.rival --perspic CHECKOUT [--rounds N] [--out FILE]``
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib
import importlib.metadata
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lnpjax
from benchmarks import measured_step, tables
from benchmarks.measured_step import cross_entropy
from benchmarks.processes import found_by
from benchmarks.rival_errors import (
    at,
    both,
    equal_probes,
    fit_line,
    independent_variance,
    network_error,
    probes_in,
    probes_interval,
    shared_variance,
)
from lnpjax.data.batches import Batches, validation_batch
from lnpjax.data.datasets import TokenDataset
from lnpjax.data.sources import standard_library_documents
from lnpjax.models import preset

TRAINING_STEPS = 200
PAPER_PROBES = 10  # Spectral Reach, B.1
MORE_PROBES = 4  # of ours, where the error is halved on both sides
TIMED_PROBES = {"perspic": (1, 4, PAPER_PROBES), "lnpjax": (1, MORE_PROBES)}
DRAWS = {"perspic": 128, "lnpjax": 64}  # single probes behind each side's error
REST = 0.1  # seconds before each timed call, for the other library's threads to fall asleep
PLAIN, CLOSED, IN_STEP = "lnpjax", "lnpjax, closed forms", "lnpjax, closed forms, in a step"


def configuration(model_name, length):
    return dataclasses.replace(preset(model_name), max_seq_len=length)


def word_ids(vocab_size):
    """Python's standard library as the ranks of its words; the rare ones share the last id."""
    words = [
        word
        for document in standard_library_documents()
        for word in re.findall(r"\w+|[^\w\s]", document)
    ]
    common = collections.Counter(words).most_common(vocab_size - 1)
    ranks = {word: rank for rank, (word, _) in enumerate(common)}
    return np.array([ranks.get(word, vocab_size - 1) for word in words])


def subject(model_name, batch_size, length, *, steps):
    """The workload of `measured_step`, trained on words for so many steps, and two batches."""
    work = measured_step.workload(model_name, batch_size, length)
    vocab_size = configuration(model_name, length).vocab_size
    data = TokenDataset(word_ids(vocab_size), vocab_size, context_length=length)
    batches = Batches(data, batch_size)
    train_step, state = jax.jit(work.train_step), work.state
    for step in range(steps):
        state, _ = train_step(state, batches.batch(step))
    batch_b = validation_batch(data, 0, size=batch_size)
    return work._replace(state=state, batch_a=batches.batch(steps), batch_b=batch_b)


def start_rival(path, model_name, length, work):
    rival_side = importlib.import_module("benchmarks.rival_side")  # imports torch
    config = configuration(model_name, length)
    return rival_side.Rival(path, config, work.state[0], work.batch_a, work.batch_b)


def our_functions(work):
    return {PLAIN: work.apply_fn, CLOSED: work.split_model}


def compile_ours(apply_fn, work, num_probes=1):
    """One compiled measurement and its arguments."""
    measure = lnpjax.lnp(
        apply_fn,
        cross_entropy,
        estimator=lnpjax.Hutchinson(num_probes),
        normalization="token",
    )

    def call(params, batch_a, batch_b, key):
        return measure(params, batch_a, batch_b, key=key)

    arguments = (work.state[0], work.batch_a, work.batch_b, jax.random.key(3))
    return jax.jit(call).lower(*arguments).compile(), arguments


# Error.


def our_draws(apply_fn, work):
    """``|J_i|^2`` from single probes, for both batches: each (probes, samples)."""
    estimator = lnpjax.Hutchinson(DRAWS["lnpjax"])

    @jax.jit
    def draw(params, inputs, key):
        linearization = estimator.linearize(apply_fn, params, inputs)
        mask = jnp.ones(len(inputs), bool)
        return jnp.sum(estimator.draw(linearization, key=key, mask=mask), axis=-1).T

    return [
        np.asarray(draw(work.state[0], batch[0], jax.random.key(index)), np.float64)
        for index, batch in enumerate((work.batch_a, work.batch_b))
    ]


def all_draws(rival, work):
    """By side."""
    ours = {name: our_draws(apply_fn, work) for name, apply_fn in our_functions(work).items()}
    return {"perspic": rival.draws(DRAWS["perspic"])} | ours


def agreement(rival, work, draws):
    """One analysis of each, on a single line: relative differences, and z in standard errors."""
    theirs = rival.analyse(PAPER_PROBES)
    compiled, arguments = compile_ours(work.apply_fn, work)
    ours = compiled(*arguments)
    shared = both(shared_variance, draws["perspic"])
    own = both(independent_variance, draws[PLAIN])
    error = np.hypot(network_error(shared, PAPER_PROBES), network_error(own))
    mean_error = np.hypot(
        network_error(shared, DRAWS["perspic"]), network_error(own, DRAWS["lnpjax"])
    )
    norms = {
        side: np.prod([rows.sum(axis=1).mean() for rows in draws[side]])
        for side in ("perspic", PLAIN)
    }
    means = np.sqrt(norms["perspic"] / norms[PLAIN]) - 1
    differences = {
        name: theirs[logged] / float(getattr(ours, name)) - 1
        for name, logged in {
            "chi_loss": "cross_chi_loss",
            "delta_loss": "cross_grad_dot_product",
            "chi_net": "cross_chi_net",
            "chi_pos": "cross_chi_coup",
        }.items()
    }
    logits = np.asarray(work.apply_fn(work.state[0], work.batch_a[0]))
    return {
        "largest_logit": float(np.max(np.abs(logits))),
        "logits_differ": float(np.max(np.abs(rival.logits() - logits))),
        **{f"{name}_differs": difference for name, difference in differences.items()},
        "chi_net_z": differences["chi_net"] / error,
        "chi_pos_z": differences["chi_pos"] / error,
        "mean_chi_net_differs": means,
        "mean_chi_net_z": means / mean_error,
    }


# Seconds.


def time_in_turn(functions, *, rounds, warm_up=1):
    """(median, interquartile range over median) of functions that return when they are done."""
    seconds = {name: [] for name in functions}
    for index in range(warm_up + rounds):
        for name, function in functions.items():
            time.sleep(REST)
            start = time.perf_counter()
            function()
            if index >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    quartiles = {name: np.quantile(values, [0.25, 0.5, 0.75]) for name, values in seconds.items()}
    return {name: (float(q[1]), float((q[2] - q[0]) / q[1])) for name, q in quartiles.items()}


def timed_functions(rival, work):
    """Everything to be timed, by name, or by name and number of probes."""

    def waiting(compiled, make_arguments):
        return lambda: jax.block_until_ready(compiled(*make_arguments()))

    functions = {
        ("perspic", n): functools.partial(rival.analyse, n) for n in TIMED_PROBES["perspic"]
    }
    for name, apply_fn in our_functions(work).items():
        for n in TIMED_PROBES["lnpjax"]:
            compiled, arguments = compile_ours(apply_fn, work, n)
            functions[name, n] = waiting(compiled, lambda arguments=arguments: arguments)

    steps = measured_step.variants(work)
    rest = (work.batch_a, work.batch_b, jax.random.key(3))
    for name in ("plain step", "measured, closed forms"):
        function, donated = steps[name]
        compiled = jax.jit(function, donate_argnums=donated).lower(work.state, *rest).compile()
        functions[name] = waiting(compiled, lambda: (jax.tree.map(jnp.copy, work.state), *rest))

    params, (inputs, targets) = work.state[0], work.batch_a

    @jax.jit
    def gradient(params):
        return jax.grad(lambda params: cross_entropy(work.apply_fn(params, inputs), targets))(
            params
        )

    functions["gradient, torch"] = rival.gradient
    functions["gradient, jax"] = waiting(gradient, lambda: (params,))
    return functions


# Memory.


def peak_in_own_process(side, model_name, batch_size, length, path):
    """What `rival_memory.peak` finds in a fresh Python, in megabytes."""
    return found_by("rival_memory", side, model_name, batch_size, length, Path(path).resolve())


# Rows.


def run(model_name, batch_size, length, *, perspic, rounds, steps=TRAINING_STEPS):
    """Agreement, error, time and memory of both, for one workload; perspic's row comes first.

    `perspic` is the path of a checkout. In our rows, the fields that begin with ``rival_`` are
    perspic's at the row's error, but for ``rival_error_at_equal_time``: perspic's error with the
    papers' number of probes over ours in the same time, spent on more probes.
    """
    size = (model_name, batch_size, length)
    work = subject(*size, steps=steps)
    untrained = work._replace(state=measured_step.workload(*size).state)
    at_start = all_draws(start_rival(perspic, model_name, length, untrained), untrained)
    rival = start_rival(perspic, model_name, length, work)
    draws = all_draws(rival, work)
    agreed = agreement(rival, work, draws)
    timings = time_in_turn(timed_functions(rival, work), rounds=rounds)
    peaks = {name: peak_in_own_process(name, *size, perspic) for name in ("perspic", PLAIN, CLOSED)}

    def line_of(name, counts):
        return fit_line({n: timings[name, n][0] for n in counts})

    line = line_of("perspic", TIMED_PROBES["perspic"])
    paper_seconds, paper_spread = timings["perspic", PAPER_PROBES]
    paper_error = network_error(both(shared_variance, draws["perspic"]), PAPER_PROBES)
    their_row = {
        "variant": f"perspic, {PAPER_PROBES} shared probes",
        "error": paper_error,
        "error_at_start": network_error(both(shared_variance, at_start["perspic"]), PAPER_PROBES),
        "error_of_own_probes": network_error(both(independent_variance, draws["perspic"])),
        "seconds": paper_seconds,
        "spread": paper_spread,
        "seconds_per_probe": line[1],
        "furthest_from_line": max(
            abs(timings["perspic", n][0] / at(line, n) - 1) for n in TIMED_PROBES["perspic"]
        ),
        "gradient_seconds": timings["gradient, torch"][0],
        **peaks["perspic"],
        **agreed,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "opacus")},
    }

    def compared(variant, seconds, spread, *, estimator):
        """What our estimator of that name costs in this time against perspic at equal error."""

        probes = equal_probes(draws["perspic"], draws[estimator])
        probes_at_start = equal_probes(at_start["perspic"], at_start[estimator])
        return {
            "variant": variant,
            "error": network_error(both(independent_variance, draws[estimator])),
            "error_at_start": network_error(both(independent_variance, at_start[estimator])),
            "seconds": seconds,
            "spread": spread,
            "rival_probes": probes,
            "rival_probes_interval": probes_interval(draws["perspic"], draws[estimator]),
            "rival_seconds": at(line, probes),
            "times_cheaper": at(line, probes) / seconds,
            "rival_probes_at_start": probes_at_start,
            "times_cheaper_at_start": at(line, probes_at_start) / seconds,
        }

    def alone(name):
        own_line = line_of(name, TIMED_PROBES["lnpjax"])
        row = compared(name, *timings[name, 1], estimator=name)
        own_probes = probes_in(own_line, paper_seconds)
        more, more_seconds = MORE_PROBES, timings[name, MORE_PROBES][0]
        return row | {
            "times_cheaper_with_more": at(line, more * row["rival_probes"]) / more_seconds,
            "times_cheaper_with_more_at_start": (
                at(line, more * row["rival_probes_at_start"]) / more_seconds
            ),
            "seconds_per_probe": own_line[1],
            "gradient_seconds": timings["gradient, jax"][0],
            "rival_error_at_equal_time": paper_error / row["error"] * np.sqrt(own_probes),
            "memory_of_rival": peaks[name]["peak_megabytes"] / peaks["perspic"]["peak_megabytes"],
            **peaks[name],
        }

    measured, spread = timings["measured, closed forms"]
    in_step = compared(IN_STEP, measured - timings["plain step"][0], spread, estimator=CLOSED)
    workload = {"workload": f"{model_name}, {batch_size} x {length}, after {steps} steps"}
    return [workload | row for row in (their_row, alone(PLAIN), alone(CLOSED), in_step)]


def table(rows):
    """error: of chi_net; rival: perspic at that error; cheaper: its time over ours, and at start:

    with the errors at the start of training; with 4: at the error of four of our probes; at its
    time: how many times larger perspic's error is in the time of its row; MB: most memory, plan: as
    XLA plans it, XLA: what it takes to compile.
    """
    first = rows[0]
    lines = tables.render(
        [{**dict.fromkeys(COLUMN_FIELDS), **row} for row in rows],
        title=f"{first['workload']}: one cross-batch measurement",
        label=lambda row: row["variant"],
        columns=COLUMNS,
    )
    agreed = ", ".join(
        f"{name} {first[f'{name}_differs']:+.0e}" for name in ("chi_loss", "delta_loss")
    )
    agreed += "".join(f", {name} {first[f'{name}_z']:+.1f} sem" for name in ("chi_net", "chi_pos"))
    intervals = "; ".join(
        f"{row['variant']} {low:.1f} to {high:.1f}"
        for row in rows[1:3]
        for low, high in [row["rival_probes_interval"]]
    )
    return (
        f"{lines}\nperspic against lnpjax: {agreed}; mean of {DRAWS['perspic']} probes "
        f"{first['mean_chi_net_differs']:+.2%} ({first['mean_chi_net_z']:+.1f} sem)\n"
        f"rival probes, 5 to 95 %: {intervals}\n"
        f"error of one probe per sample by perspic's draws: {first['error_of_own_probes']:.2%}"
    )


COLUMNS = {
    "s": ("seconds", ".3f"),
    "spread": ("spread", ".0%"),
    "error": ("error", ".2%"),
    "s/probe": ("seconds_per_probe", ".3f"),
    "gradient": ("gradient_seconds", ".3f"),
    "rival probes": ("rival_probes", ".1f"),
    "rival s": ("rival_seconds", ".2f"),
    "cheaper": ("times_cheaper", ".1f"),
    "at start": ("times_cheaper_at_start", ".1f"),
    f"with {MORE_PROBES}": ("times_cheaper_with_more", ".1f"),
    f"with {MORE_PROBES} at start": ("times_cheaper_with_more_at_start", ".1f"),
    "at its time": ("rival_error_at_equal_time", ".1f"),
    "MB": ("peak_megabytes", ".0f"),
    "of rival": ("memory_of_rival", ".2f"),
    "plan": ("planned_megabytes", ".0f"),
    "XLA": ("compiling_megabytes", ".0f"),
}
COLUMN_FIELDS = [field for field, _ in COLUMNS.values()]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rival",
        description="Where perspic's |J|^2 is right, on small networks against dense Jacobians; "
        "python -m benchmarks rival --perspic PATH times it.",
    )
    parser.add_argument("--perspic", required=True, help="a checkout of perspic")
    given = parser.parse_args()
    print(*importlib.import_module("benchmarks.rival_side").correctness(given.perspic), sep="\n")


if __name__ == "__main__":
    main()
