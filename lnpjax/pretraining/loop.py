"""Training a network while measuring the LNP components (*Spectral Reach*, section 4, B.2.1).

A run continues exactly where it was stopped, since everything that the next step depends on is
either in `PretrainState` or a pure function of the configuration and the step's number: the
batches, the random probes, and which steps are measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from lnpjax._base.checks import require
from lnpjax._base.reporting import Reporter
from lnpjax.pretraining.config import ADDED_LATER
from lnpjax.pretraining.environment import check_environment, environment
from lnpjax.pretraining.processes import SharedRun
from lnpjax.pretraining.program import Experiment, PretrainState
from lnpjax.pretraining.recorder import NonFiniteLossError, Recorder
from lnpjax.runs import Checkpoint, Run, Writer, differences
from lnpjax.runs._rows import CONFIG_FILE, SESSION
from lnpjax.runs._writers import WriteFunction

Ending: TypeAlias = Literal["finished", "stopped", "diverged"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `pretrain` ended.

    Attributes:
        status: "finished"; "stopped" by request, with a checkpoint of where; or "diverged": the
            loss was not finite, the last row says where, and there is no checkpoint after it.
        steps_done: updates made since the start of training.
        tokens_per_second: of this call, measurements included, compilation left out; NaN where it
            made no step.
        measuring_share: the fraction of that time that went into measuring; NaN where it made no
            step without measuring to compare with.

    Example:
        >>> outcome = Outcome("stopped", steps_done=400, tokens_per_second=9e4, measuring_share=0.1)
        >>> outcome.status, outcome.steps_done
        ('stopped', 400)
    """

    status: Ending
    steps_done: int
    tokens_per_second: float
    measuring_share: float


def pretrain(
    experiment: Experiment,
    run: Run | SharedRun,
    *,
    writers: Sequence[Writer | WriteFunction] = (),
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> Outcome:
    """Train from a run's last checkpoint, or from the start, to the end.

    Rows go to `metrics.jsonl` in the order of the steps. A row of step s counts the tokens seen up
    to and including that step. "train", "lnp" and "spectra" rows hold for the parameters before its
    update (the last also say how many tokens these have seen), "validation" and "test" rows for
    those after it.

    Args:
        experiment: what is run.
        run: where it is recorded, made by `create_run` or `open_run`. Where several processes
            take part, each calls this with its `SharedRun` of the same run.
        writers: get the same rows: writers, or functions of a step and its numbers by name.
        reporter: receives the progress; None for none.
        should_stop: called before every step; once it returns true, the run is saved and left.
            Several processes must get the same answers (see `processes.StopTogether`).
        force: go on with a run that was made in another environment (releases, settings of JAX,
            kind of device), in which the numbers differ.

    Returns:
        How it ended.

    Raises:
        ValueError: if the checkpoint is of another configuration, or of another environment (and
            not `force`), or is damaged with none before it. The run stays as it was.
        RuntimeError: if another process is writing to the run.

    Example:
        >>> import tempfile
        >>> from lnpjax.pretraining import DataOptions, MeasurementOptions, ModelOptions
        >>> from lnpjax.pretraining import PretrainConfig, TrainingOptions
        >>> from lnpjax.pretraining import create_run
        >>> data = DataOptions(max_bytes=20_000, context_length=8, num_validation=4)
        >>> dataset = data.load()
        >>> config = PretrainConfig.resolve(
        ...     dataset,
        ...     data=data,
        ...     model=ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1),
        ...     training=TrainingOptions(steps=5, batch_size=2),
        ...     measurement=MeasurementOptions(window_width=1),
        ... )
        >>> with create_run(config, dataset, tempfile.mkdtemp()) as run:
        ...     pretrain(Experiment(config, dataset), run).status
        ...     [len(run.rows(kind)) for kind in ("train", "lnp", "validation")]
        'finished'
        [5, 4, 2]
    """
    reporter = reporter or Reporter()
    training = experiment.config.training
    extra = {"config": experiment.config.to_json(), "environment": environment()}

    def check(checkpoint: Checkpoint) -> None:
        saved = checkpoint.extra
        _check_same_config(saved, extra, run)
        if checkpoint.step < training.steps:
            known, now, where = saved.get("environment"), extra["environment"], str(run.path)
            check_environment(known, now, where, reporter=reporter, force=force)

    restored = run.restore(experiment.abstract_state(), check=check)
    first, state, _ = restored or Checkpoint(0, experiment.initial_state(), extra)
    if first == training.steps:
        return Outcome("finished", first, math.nan, math.nan)
    reporter.note("compiling the training step, with and without the measurement")
    _ = experiment.compiled  # before the reporter begins to count time
    recorder = Recorder(
        run,
        writers=writers,
        reporter=reporter,
        tokens_per_step=experiment.tokens_per_step,
        num_parameters=experiment.config.model.num_parameters,
        log_every=training.log_every,
    )
    reporter.start(first, training.steps, measured=len(run.rows("lnp")))
    try:
        start = Checkpoint(first, state, extra)
        status, done = _train(experiment, run, recorder, reporter, start, should_stop)
    except NonFiniteLossError as error:
        status, done = "diverged", error.step
        reporter.warn(str(error))
    finally:
        reporter.stop()
    speed = recorder.speed(done - first)
    values = {
        "status": status,
        "first_step": first,
        "last_step": done - 1,
        **speed._asdict(),
        "environment": extra["environment"],
    }
    run.append_session({"kind": "session"} | {name: values[name] for name in SESSION.names()})
    return Outcome(status, done, speed.tokens_per_second, speed.measuring_share)


def _train(
    experiment: Experiment,
    run: Run | SharedRun,
    recorder: Recorder,
    reporter: Reporter,
    start: Checkpoint,
    should_stop: Callable[[], bool],
) -> tuple[Ending, int]:
    """Make the steps that are left, and return how that ended and the number of steps done."""
    training, compiled = experiment.config.training, experiment.compiled
    done, state, extra = start
    saved_at, pinned = done, frozenset(training.pinned_steps())
    status: Ending = "finished"
    for step in range(done, training.steps):
        if should_stop():
            status = "stopped"
            break
        if step == experiment.batches.steps_per_epoch:
            reporter.note(f"step {step:,} begins the second epoch: its samples were seen before")
        state = _step(experiment, recorder, state, step)
        done, last = step + 1, step + 1 == training.steps
        if last or step == 0 or done % training.validate_every == 0:
            recorder.flush()
            recorder.write_scores("validation", step, compiled.validation_scores(state.params))
        if last or (training.test_every and done % training.test_every == 0):
            recorder.flush()
            if (scores := compiled.test_scores(state.params)) is not None:
                recorder.write_scores("test", step, scores)
        if last or done % training.checkpoint_every == 0 or done in pinned:
            recorder.flush()
            run.save(done, state, extra)
            saved_at = done
    recorder.flush()
    if saved_at < done:
        run.save(done, state, extra)
    return status, done


def _step(
    experiment: Experiment,
    recorder: Recorder,
    state: PretrainState,
    step: int,
) -> PretrainState:
    """Measure what is due before the update, make it, and return the state after it."""
    compiled, batch = experiment.compiled, experiment.batches.batch(step)
    if (distribution := compiled.distribution(state, batch, step)) is not None:
        recorder.flush()
        recorder.write_distribution(step, distribution)
    if (spectra := compiled.lens(state, step)) is not None:
        recorder.flush()
        loss = compiled.validation_scores(state.params)["loss"]
        recorder.write_spectra(step, spectra, loss)
    if experiment.windows.active(step):
        batch_b = experiment.validation_batch(step)
        state, metrics, record = compiled.measured(state, batch, batch_b)
        recorder.push(step, metrics, record)
    else:
        state, metrics = compiled.plain(state, batch)
        recorder.push(step, metrics)
    return state


def _check_same_config(saved: dict[str, Any], given: dict[str, Any], run: Run | SharedRun) -> None:
    for name, was, now in differences(saved.get("config", {}), given["config"]):
        if was == "absent" and name in ADDED_LATER and now == ADDED_LATER[name]:
            continue
        expected = f"that of the run's last checkpoint, where {name} is {was!r}"
        require(False, str(run.path / CONFIG_FILE), expected=expected, got=repr(now))
