"""What is read from compiled programs, and programs for devices that are simulated."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

import lnpjax
from benchmarks import programs, simulated
from lnpjax.models import Llama, LlamaConfig

DEVICES, BATCH, LENGTH = 8, 16, 16
HEAD = "HloModule jit_f, is_scheduled=true, num_partitions=8\n"
PROGRAM = (
    HEAD
    + """
%added (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%product (left: f32[2,6,5], right: f32[2,5,7]) -> f32[2,6,7] {
  %left = f32[2,6,5]{2,1,0} parameter(0)
  %right = f32[2,5,7]{2,1,0} parameter(1)
  ROOT %dot.1 = f32[2,6,7]{2,1,0} dot(%left, %right), lhs_batch_dims={0}, lhs_contracting_dims={2}
}

%inner (x: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = (s32[], f32[8,4]{1,0}) parameter(0)
  %part = f32[1,4]{1,0} slice(%x), metadata={op_name="all-gather(%x)"}
  %whole = f32[8,4]{1,0} all-gather(%part), channel_id=1, dimensions={0}
  %fused = f32[2,6,7]{2,1,0} fusion(%whole, %whole), kind=kOutput, calls=%product
  ROOT %again = (s32[], f32[8,4]{1,0}) tuple(%whole)
}

%outer (y: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %y = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %nested = (s32[], f32[8,4]{1,0}) while(%y), condition=%ends, body=%inner, INNER
}

%ends (z: (s32[], f32[8,4])) -> pred[] {
  %z = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%z, %z), direction=LT
}

%dear (v: f32[16]) -> bf16[16] {
  %v = f32[16]{0} parameter(0)
  ROOT %permuted = bf16[16]{0} collective-permute(%v), channel_id=2
}

%cheap (w: f32[16]) -> bf16[16] {
  %w = f32[16]{0} parameter(0)
  ROOT %permuted.1 = bf16[2]{0} collective-permute(%w), channel_id=3
}

ENTRY %main (p: f32[16], q: s32[]) -> f32[2] {
  %p = f32[16]{0} parameter(0)
  %q = s32[] parameter(1)
  %loop = (s32[], f32[8,4]{1,0}) while(%q), condition=%ends, body=%outer, OUTER
  %both = (f32[16]{0}, f64[], /*index=2*/pred[3]{0}) all-reduce(%p, %q, %q), to_apply=%added
  %share = f32[2]{0} reduce-scatter(%p), channel_id=4, dimensions={0}, to_apply=%added
  %one = bf16[16]{0} conditional(%q, %p, %p), branch_computations={%cheap, %dear}
  EXTRA
  ROOT %end = f32[2]{0} copy(%share)
}
"""
)


def trips(number):
    return f'backend_config={{"known_trip_count":{{"n":"{number}"}},"known_init_step":{{}}}}'


def program(*, inner=3, extra=""):
    """The text above, whose inner loop runs so often; None does not say."""
    inner = "metadata={}" if inner is None else trips(inner)
    return PROGRAM.replace("INNER", inner).replace("OUTER", trips(5)).replace("EXTRA", extra)


def test_loops_tuples_branches_and_fusions_are_counted():
    work = programs.work(program())
    assert work.flops == 3 * 5 * (2 * 2 * 6 * 7 * 5)
    assert work.number == {
        "all-gather": 3 * 5, "all-reduce": 1, "reduce-scatter": 1, "collective-permute": 1,
    }  # fmt: skip
    assert work.bytes == {
        "all-gather": 3 * 5 * 8 * 4 * 4,
        "all-reduce": 16 * 4 + 8 + 3,
        "reduce-scatter": 16 * 4,  # what is added up, not the part that is kept
        "collective-permute": 16 * 2,  # of the larger branch
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": None}, "expected loops of known length, got nested"),
        (
            {"extra": '%m = f32[2] custom-call(%p), custom_call_target="__onednn$matmul"'},
            "in the open, got custom-call",
        ),
        ({"extra": "%m = f32[2] all-gather-start(%p)"}, "in the open, got all-gather-start"),
    ],
)
def test_what_cannot_be_counted_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        programs.work(program(**options))


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="expected a compiled program with an ENTRY"):
        programs.work(HEAD)


def test_a_loop_without_products_and_collectives_may_be_of_any_length():
    text = program(inner=None).replace("all-gather(%part)", "copy(%part)")
    assert programs.work(text.replace("calls=%product", "")).flops == 0


def matrices(config):
    """Entries in the matrices of one layer, and in the table or the read-out."""
    width = config.hidden_size
    return 4 * width**2 + 3 * width * config.intermediate_size, width * config.vocab_size


def test_a_plain_step_is_counted_exactly():
    """By closed forms: operations, weights gathered once, and the gradient and the loss summed."""
    layers = 2
    arguments = ("tiny", f"data={DEVICES}", BATCH, LENGTH, "unrolled", "--layers", layers)
    found = simulated.in_own_process(*arguments, "--only", simulated.PLAIN, devices=DEVICES)
    row = found[simulated.PLAIN]
    config = LlamaConfig(**simulated.MODELS["tiny"] | {"num_layers": layers}, max_seq_len=LENGTH)
    layer, table = matrices(config)
    per_token = 2 * (layers * layer + table) + 4 * LENGTH * config.hidden_size * layers
    assert row["flops"] == 3 * per_token * BATCH * LENGTH / DEVICES
    assert row["flops"] == row["needed_flops"]
    assert row["gathers"] == 7 * layers + 2
    assert row["gathered_bytes"] == 4 * (layers * layer + 2 * table)
    assert row["summed_bytes"] == 4 * (config.num_parameters + 1)
    assert row["other_bytes"] == 0


def test_numbers_continue_along_a_line():
    few, more = ({"a": {"flops": 3.0 * layers + 1}} for layers in simulated.COMPILED_LAYERS)
    assert simulated.continued(few, more, 32) == {"a": {"flops": 97.0}}


def test_both_forms_are_the_same_network():
    config = LlamaConfig(**simulated.MODELS["tiny"], max_seq_len=LENGTH)
    apply_fn, params = lnpjax.from_nnx(Llama(config, rngs=nnx.Rngs(0)))
    tokens = jax.random.randint(jax.random.key(0), (2, LENGTH), 0, config.vocab_size)
    looped = simulated.looped_llama(config, lambda params: params)
    stacked = simulated.stack_layers(params)
    assert jax.tree.map(np.shape, stacked["layers"])["attention"]["query"]["kernel"][0] == 4
    np.testing.assert_allclose(
        looped(stacked, tokens), apply_fn(params, tokens), rtol=1e-5, atol=1e-5
    )


def test_rows_are_relative_to_what_a_plain_step_needs(monkeypatch):
    numbers = {
        "flops": 8e12, "needed_flops": 4e12, "gathers": 2, "gathered_bytes": 8, "sums": 1,
        "summed_bytes": 4, "other_collectives": 0, "other_bytes": 0, "planned_megabytes": 5.0,
    }  # fmt: skip
    names = (simulated.PLAIN, simulated.MEASURED, "eNTK by products")
    monkeypatch.setattr(
        simulated, "in_own_process", lambda *arguments, devices: dict.fromkeys(names, numbers)
    )
    rows = simulated.run("tiny", "data=4,model=2", 16, LENGTH, "loop", rounds=1)
    assert [row["in_plain_steps"] for row in rows] == [2, 2, 8]  # the kernel's on 4 samples of 16
    assert [row["work"] for row in rows] == [2, 2, 2]
    assert "eNTK by products" in simulated.table(rows)
