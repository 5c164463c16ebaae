"""Results print as tables: every number with its error and what it means."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import zoo

import lnpjax

CASE = zoo.build("mlp")
MEASURE = lnpjax.lnp(CASE.apply_fn, CASE.loss_fn)
COMPILED = jax.jit(MEASURE)


@functools.cache
def measured(seed=0):
    return COMPILED(CASE.params, CASE.batch_a, CASE.batch_b, key=jax.random.key(seed))


def test_a_measurement_prints_numbers_errors_and_meanings():
    out = measured()
    lines = repr(out).splitlines()
    assert lines[0] == "LNP"
    (line,) = [line for line in lines if line.startswith("  chi_net ")]
    assert f"{float(out.chi_net):.5g} +- {float(out.chi_net_sem):.2g}" in line
    assert "scale of the Jacobian" in line
    assert any("groups['layer0'].chi_pos" in line for line in lines)
    assert any(line.split()[:2] == ["status", "ok"] for line in lines)
    assert max(map(len, lines)) < 140


def test_a_status_prints_in_words():
    inputs, _ = CASE.batch_a
    perfect = (inputs, jax.jit(CASE.apply_fn)(CASE.params, inputs))
    out = COMPILED(CASE.params, perfect, CASE.batch_b, key=jax.random.key(0))
    assert "the loss gradient with respect to the outputs is zero" in repr(out)


def test_under_jit_a_result_is_one_line():
    seen = []

    def trace(key):
        out = MEASURE(CASE.params, CASE.batch_a, CASE.batch_b, key=key)
        seen.append(repr(out))
        return out.chi_pos

    jax.eval_shape(trace, jax.random.key(0))
    assert seen[0].startswith("LNP(loss_a: float32[], ")
    assert "\n" not in seen[0]


def test_stacked_results_print_their_range():
    out = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(measured, range(3)))
    low, high = float(jnp.min(out.chi_net)), float(jnp.max(out.chi_net))
    assert f"float32[3], {low:.4g} to {high:.4g}" in repr(out)


def test_notebooks_show_a_table():
    page = measured()._repr_html_()
    assert page.startswith("<table><caption>LNP</caption>")
    assert "<td>chi_net</td>" in page
    assert page.count("<tr>") == page.count("</tr>")
    assert "&#x27;layer0&#x27;" in page
