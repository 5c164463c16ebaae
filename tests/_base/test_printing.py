"""Results print as tables: every number with its error and what it means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import zoo

import lnpjax


def measured(**options):
    case = zoo.build("mlp")
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, **options)
    return measure, (case.params, case.batch_a, case.batch_b)


def test_a_measurement_prints_numbers_errors_and_meanings():
    measure, arguments = measured()
    out = jax.jit(measure)(*arguments, key=jax.random.key(0))
    lines = repr(out).splitlines()
    assert lines[0] == "LNP"
    (line,) = [line for line in lines if line.startswith("  chi_net ")]
    assert f"{float(out.chi_net):.5g} +- {float(out.chi_net_sem):.2g}" in line
    assert "scale of the Jacobian" in line
    assert any("groups['layer0'].chi_pos" in line for line in lines)
    assert any(line.split()[:2] == ["status", "ok"] for line in lines)
    assert max(map(len, lines)) < 140


def test_a_status_prints_in_words():
    measure, (params, (inputs, _), _) = measured(estimator=lnpjax.Exact())
    case = zoo.build("mlp")
    perfect = (inputs, case.apply_fn(params, inputs))
    assert "the loss gradient with respect to the outputs is zero" in repr(measure(params, perfect))


def test_under_jit_a_result_is_one_line():
    measure, arguments = measured()
    seen = []

    @jax.jit
    def trace(key):
        out = measure(*arguments, key=key)
        seen.append(repr(out))
        return out.chi_pos

    trace(jax.random.key(0))
    assert seen[0].startswith("LNP(loss_a: float32[], ")
    assert "\n" not in seen[0]


def test_stacked_results_print_their_range():
    measure, arguments = measured()
    out = jax.jit(jax.vmap(lambda key: measure(*arguments, key=key)))(
        jax.random.split(jax.random.key(0), 3)
    )
    low, high = float(jnp.min(out.chi_net)), float(jnp.max(out.chi_net))
    assert f"float32[3], {low:.4g} to {high:.4g}" in repr(out)


def test_notebooks_show_a_table():
    measure, arguments = measured()
    page = jax.jit(measure)(*arguments, key=jax.random.key(0))._repr_html_()
    assert page.startswith("<table><caption>LNP</caption>")
    assert "<td>chi_net</td>" in page
    assert page.count("<tr>") == page.count("</tr>")
    assert "&#x27;layer0&#x27;" in page
