"""`Recorder`: from a loop of one's own to a folder that the commands read, and nothing is lost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import Recorder, cli
from lnpjax.plotting import plot_components, plot_groups
from lnpjax.recording._recorder import STEPS_AHEAD
from lnpjax.runs import Run

KEY = jax.random.key(0)
PARAMS = {"first": jax.random.normal(KEY, (3, 5)), "second": jnp.ones((5, 1))}
BATCH = (jax.random.normal(KEY, (8, 3)), jnp.ones((8, 1)))


def apply_fn(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def train_step(state, batch):
    params, step = state
    loss, gradient = jax.value_and_grad(lambda p: loss_fn(apply_fn(p, batch[0]), batch[1]))(params)
    return (jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), step + 1), loss


def every_record(num_steps=10, measure=None):
    step = jax.jit(
        lnpjax.instrument(
            train_step,
            measure or lnpjax.lnp(apply_fn, loss_fn),
            lnpjax.every(3),
            params_of=lambda state: state[0],
            step_of=lambda state: state[1],
        )
    )
    state = PARAMS, jnp.int32(0)
    for i in range(num_steps):
        state, loss, record = step(state, BATCH, BATCH, jax.random.key(i))
        yield loss, record


@pytest.fixture(scope="module")
def records():
    return list(every_record())


def recorded(folder, records, **options):
    with Recorder(folder, **options) as recorder:
        for loss, record in records:
            recorder(record, loss=loss)
    return recorder.run


def test_rows_are_what_was_measured(tmp_path, records):
    run = recorded(tmp_path / "run", records, tokens_per_step=8, num_parameters=20)
    assert run.config == {"num_parameters": 20}
    train, lnp = run.columns("train"), run.columns("lnp")
    assert train["step"].tolist() == list(range(10))
    assert train["tokens"].tolist() == [8 * (step + 1) for step in range(10)]
    assert train["flops"].tolist() == [6.0 * 20 * 8 * (step + 1) for step in range(10)]
    np.testing.assert_array_equal(train["loss"], [float(loss) for loss, _ in records])
    assert lnp["step"].tolist() == [0, 3, 6, 9]
    assert lnp["window"].tolist() == [0, 1, 2, 3]
    for name in ("chi_loss", "chi_net", "chi_pos", "chi_pos_sem", "nu", "status"):
        measured = [getattr(r.measurement, name) for _, r in records if r.measured]
        np.testing.assert_array_equal(lnp[name], np.array(measured, np.float64))
    parts = [r.measurement.groups["first"].chi_net for _, r in records if r.measured]
    np.testing.assert_array_equal(lnp["groups/first/chi_net"], np.array(parts, np.float64))


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"tokens_per_step": 8, "num_parameters": 20}, "training compute 6 N D (FLOPs)"),
        ({}, "training step"),
    ],
)
def test_its_runs_are_plotted(tmp_path, records, options, label, capsys):
    run = recorded(tmp_path / "run", records, **options)
    for figure, curves in ((plot_components(run), 1), (plot_groups(run), 2)):
        for ax in figure.axes:
            assert ax.get_xlabel() == label
            lines = [line for line in ax.get_lines() if np.isfinite(line.get_ydata()).any()]
            assert len(lines) >= curves
    assert cli.main(["plot", str(run.path)]) == 0
    assert (run.path / "figures/components.png").exists()
    capsys.readouterr()


def test_its_runs_are_compared(tmp_path, records, capsys):
    folders = []
    for name in ("one", "two"):
        with Recorder(tmp_path / name, tokens_per_step=8) as recorder:
            for loss, record in records:
                recorder(record, loss=loss)
                recorder.validation(record.step, loss)
        folders.append(str(tmp_path / name))
    assert cli.main(["compare", *folders, "--out", str(tmp_path / "figures")]) == 0
    assert "one" in capsys.readouterr().out
    without = recorded(tmp_path / "without", records)
    assert cli.main(["compare", str(without.path), folders[0]]) == 2
    assert "tokens_per_step" in capsys.readouterr().err


def test_nothing_is_lost_where_the_loop_fails(tmp_path, records):
    recorder, written = Recorder(tmp_path / "run"), []

    def loop():
        with recorder:
            for loss, record in records[:7]:
                recorder(record, loss=loss)
            written.extend(recorder.run.rows("train"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert len(written) == 7 - STEPS_AHEAD
    assert len(Run.open(tmp_path / "run").rows("train")) == 7


def test_a_run_goes_on_and_no_step_is_written_twice(tmp_path, records):
    recorded(tmp_path / "run", records[:5])
    run = recorded(tmp_path / "run", records[5:])
    assert run.columns("train")["step"].tolist() == list(range(10))
    with pytest.raises(ValueError, match=r"record: expected a step after 9, .*, got step 4"):
        recorded(tmp_path / "run", records[4:5])
    with pytest.raises(ValueError, match="config"):
        Recorder(tmp_path / "run", config={"another": 1})


def test_several_measures(tmp_path):
    lnp = lnpjax.lnp(apply_fn, loss_fn)
    position = lnpjax.spectra.position_distribution(apply_fn, loss_fn, num_matvecs=3)

    def both(params, batch_a, batch_b, *, key):
        return {
            "lnp": lnp(params, batch_a, batch_b, key=key),
            "position": position(params, batch_a, key=key),
        }

    run = recorded(tmp_path / "run", every_record(4, both))
    assert run.columns("lnp")["step"].tolist() == [0, 3]
    assert run.spectra() == ["position-00000000", "position-00000003"]


def test_a_writer_that_fails_is_dropped_and_flags_are_announced_once(tmp_path):
    class Broken:
        closed = False

        def write(self, step, scalars):
            raise OSError("no room")

        def close(self):
            self.closed = True

    class Kept(Broken):
        def __init__(self):
            self.rows = []

        def write(self, step, scalars):
            self.rows.append((step, scalars))

    kept = Kept()
    still = lnpjax.instrument(  # which trains nothing
        lambda state, batch: ((state[0], state[1] + 1), 0.0),
        lnpjax.lnp(apply_fn, loss_fn),
        lnpjax.every(1),
        params_of=lambda state: state[0],
        step_of=lambda state: state[1],
    )
    still = jax.jit(still)
    state, loop = (PARAMS, jnp.int32(0)), []
    for i in range(3):
        state, _, record = still(state, BATCH, None, jax.random.key(i))
        loop.append((0.0, record))
    with pytest.warns(UserWarning, match="Broken gets no more rows: no room") as caught:
        recorded(tmp_path / "run", loop, writers=[Broken(), kept])
    assert sum("changed no parameter" in str(warning.message) for warning in caught) == 1
    assert [step for step, _ in kept.rows] == [0, 0, 1, 1, 2, 2]
    assert kept.closed


def test_bad_input(tmp_path, records):
    with pytest.raises(ValueError, match="tokens_per_step: expected an integer >= 1"):
        Recorder(tmp_path / "run", tokens_per_step=0)
    assert not (tmp_path / "run").exists()
    with Recorder(tmp_path / "run") as recorder:
        with pytest.raises(TypeError, match=r"metrics: expected loss and learning_rate, got acc"):
            recorder(records[0][1], acc=1.0)
        other = lnpjax.Record(jnp.array(True), jnp.int32(0), jnp.int32(0), jnp.ones(3))
        with pytest.raises(TypeError, match="record: expected a measurement that is an LNP"):
            recorder(other)
    assert recorder.run.rows() == []


class Heard(lnpjax.runs.Reporter):
    def __init__(self):
        self.events = []

    def start(self, step, steps, *, measured=0):
        self.events.append(("start", step, steps))

    def update(self, step, *, loss, chi_pos):
        self.events.append((step, loss > 0, chi_pos is not None))

    def stop(self):
        self.events.append("stop")


def test_progress_is_reported(records, tmp_path):
    heard = Heard()
    recorded(tmp_path, records, num_steps=10, reporter=heard)
    steps = [(i + 1, True, i % 3 == 0) for i in range(10)]
    assert heard.events == [("start", 0, 10), *steps, "stop"]
    with pytest.raises(ValueError, match="num_steps: expected an integer"):
        Recorder(tmp_path / "other", reporter=heard)


def test_a_notebook_shows_the_bar_and_then_its_last_state(records, tmp_path, monkeypatch):
    shown = []

    class Handle:
        def update(self, picture, raw):
            shown.append(picture)

    def display(picture, raw, display_id):
        shown.append(picture)
        return Handle()

    reporter = lnpjax.runs.NotebookReporter()
    monkeypatch.setattr(reporter._display, "display", display)
    recorded(tmp_path, records, num_steps=10, reporter=reporter)
    reporter.warn("<b> is not a tag")
    assert "step 10/10" in shown[-1]["text/plain"]
    assert "<progress value=10 max=10>" in shown[-1]["text/html"]
    assert "warning: &lt;b&gt; is not a tag" in shown[-1]["text/html"]


def test_a_run_is_read_back(records, tmp_path):
    recorded(tmp_path / "<run>", records)
    loaded = lnpjax.load_run(tmp_path / "<run>")
    assert loaded.kinds == ("train", "lnp")
    frame = loaded.frame("lnp")
    assert list(frame.index) == [0, 3, 6, 9]
    np.testing.assert_array_equal(frame["chi_pos"], loaded.columns("lnp")["chi_pos"])
    np.testing.assert_array_equal(frame["groups/first/chi_pos"] > 0, True)
    page = loaded._repr_html_()
    assert "<b>&lt;run&gt;</b>" in page
    assert "10 of train, 4 of lnp" in page
    with pytest.raises(ValueError, match="kind: expected one of 'train', 'lnp', got 'nothing'"):
        loaded.frame("nothing")
    with pytest.raises(ValueError, match="path: expected a run of `lnpjax train`"):
        loaded.model()
