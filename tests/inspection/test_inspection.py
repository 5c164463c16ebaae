"""An inspection: its numbers are those of the library, and its page says what went wrong."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import parsed
from pictures import is_whole_png

import lnpjax
from lnpjax import inspection
from lnpjax.inspection import InspectionOptions, Subject, inspect_into, inspect_network
from lnpjax.inspection._groups import block_of, joined, layer_of
from lnpjax.lens import activation_spectra, gradient_spectra, weight_spectra
from lnpjax.pretraining import cross_entropy
from lnpjax.shells import ProfileOptions, measure_states, profiles_of
from lnpjax.spectra import position_distribution, spectral_density
from lnpjax.status import Status, describe_status

WORDS, WIDTH, KEY = 7, 4, jax.random.key(3)
OPTIONS = InspectionOptions(num_probes=2, profile=ProfileOptions(num_matvecs=4))
ALL = list(inspection.PARTS)


def bag_of_words(params, tokens):
    """Logits of the next token from the token alone: a language model without memory."""
    return jnp.tanh(params["embedding"]["table"][tokens]) @ params["head"]["kernel"]


def hidden_states(params, tokens):
    return {"embedding": params["embedding"]["table"][tokens]}


def make_subject(apply_fn=bag_of_words, **changes) -> Subject:
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "embedding": {"table": jax.random.normal(keys[0], (WORDS, WIDTH))},
        "head": {"kernel": jax.random.normal(keys[1], (WIDTH, WORDS))},
    }
    tokens = np.asarray(jax.random.randint(keys[2], (8, 6), 0, WORDS))
    batch_a, batch_b = ((part[:, :-1], part[:, 1:]) for part in (tokens[:4], tokens[4:]))
    subject = Subject("words & more", apply_fn, params, cross_entropy, batch_a, batch_b)
    return dataclasses.replace(subject, **{"hidden_states": hidden_states} | changes)


@pytest.fixture(scope="module")
def cheap(tmp_path_factory):
    """An inspection of the parts that are measured in a second, and its folder."""
    folder = tmp_path_factory.mktemp("cheap")
    about = {"Model": {"name": "words <b>"}}
    parts = ["loss", "activations", "weights"]
    outcomes = inspect_into(folder, make_subject(), about, OPTIONS, key=KEY, parts=parts)
    return {outcome.part: outcome for outcome in outcomes}, folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole inspection, and its folder."""
    folder = tmp_path_factory.mktemp("inspection")
    about = {"Model": {"name": "words <b>"}}
    outcomes = inspect_into(folder, make_subject(), about, OPTIONS, key=KEY)
    return {outcome.part: outcome for outcome in outcomes}, folder


def key_of(part: str):
    return jax.random.fold_in(KEY, ALL.index(part))


def close(found, expected):
    np.testing.assert_allclose(found, np.asarray(expected), rtol=2e-4, atol=1e-6)


def test_everything_is_measured_and_kept(whole):
    outcomes, folder = whole
    assert [name for name, outcome in outcomes.items() if outcome.error] == []
    stored = inspection.read_inspection(folder)
    assert list(stored["parts"]) == ALL
    figures = {figure.name for part in inspection.PARTS.values() for figure in part.figures}
    assert {file.stem for file in (folder / "figures").iterdir()} == figures
    assert all(map(is_whole_png, (folder / "figures").iterdir()))
    for name, record in stored["parts"].items():
        assert record["numbers"].keys() == outcomes[name].findings.numbers.keys()
        assert record["figures_failed"] == {}
    assert stored["parts"]["components"]["units"]["loss_a"] == "nats"
    json.loads((folder / "inspect.json").read_text(), parse_constant=pytest.fail)  # strict


def test_losses(cheap):
    subject, numbers = make_subject(), cheap[0]["loss"].findings.numbers
    for name, (tokens, targets) in (("a", subject.batch_a), ("b", subject.batch_b)):
        logits = np.asarray(bag_of_words(subject.params, tokens), float)
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        losses = -np.log(np.take_along_axis(chances, targets[..., None], -1))[..., 0].mean(axis=1)
        close(numbers[name]["loss"], losses.mean())
        close(numbers[name]["loss_sem"], losses.std(ddof=1) / 2)
        assert numbers[name]["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == targets))
    assert numbers["chance"] == pytest.approx(math.log(WORDS))


def test_components_are_those_of_lnp(whole):
    subject, numbers = make_subject(), whole[0]["components"].findings.numbers
    measure = jax.jit(lnpjax.lnp(subject.apply_fn, subject.loss_fn, groups=block_of))
    for name, other in (("self", subject.batch_a), ("cross", subject.batch_b)):
        expected = measure(subject.params, subject.batch_a, other, key=key_of("components"))
        for field in ("delta_loss", "chi_loss", "chi_net", "chi_pos", "chi_pos_sem", "sem_df"):
            close(numbers[name][field], getattr(expected, field))
        assert list(numbers[name]["groups"]) == ["embedding", "head"]
        for group, found in numbers[name]["groups"].items():
            close(found["chi_pos"], expected.groups[group].chi_pos)
            close(found["chi_net_sem"], expected.groups[group].chi_net_sem)


def test_the_spectral_parts_are_those_of_the_library(whole):
    subject = make_subject()
    outcomes, folder = whole
    measured = measure_states(
        subject.apply_fn,
        subject.loss_fn,
        {"it": lambda: subject.params},
        subject.parts(4),
        OPTIONS.profile,
        key=key_of("shells"),
        report=lambda _: None,
    )
    (profile,) = profiles_of(dict(measured), OPTIONS.profile)
    arrays = np.load(folder / "inspect.npz")
    close(arrays["shells/energies"], profile.energies.mean)
    close(outcomes["shells"].findings.numbers["peak"], profile.frontier.peak)

    learned = position_distribution(subject.apply_fn, subject.loss_fn, num_matvecs=4)
    expected = learned(subject.params, subject.batch_a, key=key_of("learning"))
    for name in ("chi_pos", "chi_pos_sem", "median", "unresolved", "trace"):
        close(outcomes["learning"].findings.numbers[name], getattr(expected, name))
    close(arrays["learning/weights"], expected.weights)

    density = spectral_density(
        subject.apply_fn,
        subject.params,
        subject.batch_a[0],
        num_matvecs=4,
        num_probes=2,
        key=key_of("density"),
    )
    numbers = outcomes["density"].findings.numbers
    close((numbers["trace"], numbers["trace_sem"]), density.trace)
    assert numbers["dimension"] == 4 * 5 * WORDS
    fewer = spectral_density(
        subject.apply_fn,
        subject.params,
        subject.batch_a[0],
        num_matvecs=2,
        num_probes=2,
        key=key_of("density"),
    )
    close(numbers["effective_rank_half"], fewer.effective_rank[0])


def test_the_lens_is_that_of_the_library(whole):
    subject, outcomes = make_subject(), whole[0]
    both = subject.pool
    assert both[0].shape == (8, 5)
    weights = ("embedding/table", "head/kernel")
    gradients = jax.jit(gradient_spectra(subject.apply_fn, subject.loss_fn, weights=weights))
    for part, expected in (
        ("activations", activation_spectra(hidden_states)(subject.params, both)),
        ("gradients", gradients(subject.params, both)),
        ("weights", weight_spectra(subject.params, weights)),
    ):
        found = outcomes[part].findings
        assert found.numbers.keys() == expected.keys()
        for name, summary in expected.items():
            close(found.numbers[name]["rank_me"], summary.rank_me)
            close(found.arrays[f"{part}/{name}"] + 1, summary.eigenvalues + 1)


def check_page(outcomes, folder):
    page = parsed((folder / "report.html").read_text())
    pictures = [file.read_bytes() for file in (folder / "figures").iterdir()]
    assert sorted(page.images) == sorted(pictures)
    assert set(ALL) <= set(page.anchors)
    for name, outcome in outcomes.items():
        part = inspection.PARTS[name]
        assert all(
            reading in page.text for reading in (part.reading, *map(reading_of, part.figures))
        )
        for table in inspection.tables_of(name, outcome.findings.numbers):
            assert all(len(row) == len(table.headings) for row in table.rows)
            assert all(cell in page.text for row in table.rows for cell in row)
    assert "words <b>" in page.text
    assert "Inspection of words & more" in page.text
    assert page.text.count("Not measured.") == len(ALL) - len(outcomes)


def reading_of(figure):
    return figure.reading


def test_the_page_holds_all_of_it(cheap):
    check_page(*cheap)


def test_the_page_of_a_whole_inspection_holds_all_of_it(whole):
    check_page(*whole)


def test_what_one_part_fails_at_is_said_in_its_place(tmp_path):
    subject = make_subject(hidden_states=None)
    parts = ["loss", "activations", "weights"]
    outcomes = list(inspect_into(tmp_path, subject, {}, OPTIONS, key=KEY, parts=parts))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    stored = inspection.read_inspection(tmp_path)
    assert "expected hidden states" in stored["parts"]["activations"]["error"]
    page = parsed((tmp_path / "report.html").read_text())
    assert stored["parts"]["activations"]["error"] in page.text
    assert page.text.count("Not measured.") == len(ALL) - len(parts)
    assert len(page.images) == 1  # of the weights


def test_flags_reach_the_page(tmp_path):
    subject = make_subject()
    dead = dataclasses.replace(subject, params=jax.tree.map(jnp.zeros_like, subject.params))
    (outcome,) = inspect_into(tmp_path, dead, {}, OPTIONS, key=KEY, parts=["weights"])
    flags = Status(outcome.findings.flags["head/kernel"])
    assert flags
    page = parsed((tmp_path / "report.html").read_text())
    for flag in flags:
        said = f"embedding/table, head/kernel: {describe_status(flag)}."
        assert page.text.count(said) == 1


def test_samples_that_interact_are_flagged_on_the_page(tmp_path):
    """They have no components; the page says so, and what to do."""

    def normalised(params, tokens):
        logits = bag_of_words(params, tokens)
        return logits - jnp.mean(logits, axis=0)

    subject = make_subject(normalised)
    parts = ["components", "gradients"]
    outcomes = list(inspect_into(tmp_path, subject, {}, OPTIONS, key=KEY, parts=parts))
    assert all(outcome.error is None for outcome in outcomes)
    for outcome in outcomes:
        assert all(flags & Status.SAMPLES_INTERACT for flags in outcome.findings.flags.values())
    page = parsed((tmp_path / "report.html").read_text())
    assert page.text.count(describe_status(Status.SAMPLES_INTERACT)) == len(parts)


def test_an_interruption_keeps_what_was_done(tmp_path):
    def interrupt(text: str) -> None:
        if text.startswith("2"):
            raise KeyboardInterrupt

    parts = ["loss", "weights"]
    with pytest.raises(KeyboardInterrupt):
        list(
            inspect_into(
                tmp_path, make_subject(), {}, OPTIONS, key=KEY, parts=parts, report=interrupt
            )
        )
    assert list(inspection.read_inspection(tmp_path)["parts"]) == ["loss"]
    assert parsed((tmp_path / "report.html").read_text()).text.count("Not measured.") == 7


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    subject = make_subject()
    wrong = dataclasses.replace(subject, batch_b=(subject.batch_b[0], subject.batch_b[1][:, :2]))
    for arguments, message in (
        ((subject, InspectionOptions(num_probes=1)), "num_probes: expected an integer >= 2"),
        ((wrong, OPTIONS), "loss_fn: expected outputs and targets that it takes"),
    ):
        with pytest.raises(ValueError, match=message):
            inspect_into(tmp_path / "out", arguments[0], {}, arguments[1], key=KEY)
    with pytest.raises(ValueError, match=r"parts: expected some of .*, got \['heads'\]"):
        inspect_network(subject, key=KEY, parts=["heads"])
    assert not (tmp_path / "out").exists()


def test_a_damaged_inspection_is_refused(tmp_path):
    for text in ("[]", "{", '{"parts": 3}'):
        (tmp_path / "inspect.json").write_text(text)
        with pytest.raises(ValueError, match=r"inspect.json: expected what lnpjax inspect writes"):
            inspection.read_inspection(tmp_path)


def test_groups_add_up():
    """The chi_pos of a layer is the chi_net-weighted mean of its groups'."""
    groups = {
        "layers/0/attention": {"delta_loss": 1.0, "chi_net": 2.0, "chi_net_sem": 0.1},
        "layers/0/feed_forward": {"delta_loss": 3.0, "chi_net": 6.0, "chi_net_sem": 0.2},
        "head": {"delta_loss": -1.0, "chi_net": 0.0, "chi_net_sem": 0.0},
    }
    layers = joined(groups, 0.5, layer_of)
    assert list(layers) == ["layers/0", "head"]
    assert layers["layers/0"]["chi_pos"] == pytest.approx((2 * 1.0 + 6 * 1.0) / 8)
    assert layers["layers/0"]["chi_net_sem"] == pytest.approx(0.3)
    assert math.isnan(layers["head"]["chi_pos"])
