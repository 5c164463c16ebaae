"""`lnpjax train`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lnpjax._checks import import_extra, require
from lnpjax.commands.paths import shown
from lnpjax.data import KNOWN_DATA
from lnpjax.experiments.experiment import Experiment
from lnpjax.experiments.options import (
    DataOptions,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    TrainingOptions,
)
from lnpjax.experiments.pretrain import Outcome, pretrain
from lnpjax.experiments.run_folders import create_run, open_run
from lnpjax.plotting import plot_run
from lnpjax.progress import Reporter, summary_table, terminal_reporter
from lnpjax.runs import Run
from lnpjax.writers import TensorBoardWriter, WandbWriter, Writer

FAILED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """A run is a folder with its configuration, rows, checkpoints and figures.

    Args:
        out: A new folder for the run; one that holds a run is never overwritten. None:
            runs/DATA-PRESET-N with the first free N.
        resume: Go on with the run in this folder from its last checkpoint, with its own
            configuration: of the other options only --tensorboard and --wandb may be given.
        tensorboard: Also write event files for TensorBoard, into the run (the extra tensorboard).
        wandb: Also log to this project of Weights & Biases (the extra wandb). None: do not.
    """

    out: str | None = None
    resume: str | None = None
    tensorboard: bool = False
    wandb: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train a Llama on text or images, and measure from where in the spectrum it learns.

    While the model trains, the linearised change of its loss is split into chi_loss (how wrong the
    predictions are), chi_net (how strongly the outputs respond to the parameters) and chi_pos:
    where in the spectrum of the empirical neural tangent kernel learning takes place. The rows go
    to RUN/metrics.jsonl, the curves over training compute to RUN/figures. Without options, a model
    of 115K parameters trains on the Python library's sources, in about a minute on two cores. A run
    that was stopped by Ctrl-C, or killed, goes on with --resume RUN and ends with exactly what an
    uninterrupted run has.
    """

    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    measurement: MeasurementOptions = dataclasses.field(default_factory=MeasurementOptions)
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        self._check()
        reporter = terminal_reporter()
        run, config, experiment = self._open(reporter)
        with contextlib.ExitStack() as stack:
            stack.enter_context(run)
            writers = [stack.enter_context(contextlib.closing(w)) for w in self._writers(run)]
            stop_signal = stack.enter_context(_first_stop_signal())
            outcome = pretrain(
                experiment,
                run,
                writers=writers,
                reporter=reporter,
                should_stop=lambda: bool(stop_signal),
            )
            figure = plot_run(run) if outcome.steps_done else None
            _print_summary(run, outcome, figure)
        if outcome.status == "stopped":
            where = shlex.quote(shown(run.path))
            reporter.note(
                f"stopped after {outcome.steps_done} of {config.training.steps} steps, saved; go "
                f"on with: lnpjax train --resume {where}"
            )
            return 128 + stop_signal[0]
        return 0 if outcome.status == "finished" else FAILED

    def _check(self) -> None:
        """Refuse what can be refused before the data are read, which may take long."""
        self.training.check()
        self.measurement.check()
        if self.output.tensorboard:
            import_extra("tensorboardX", extra="tensorboard", purpose="--tensorboard")
        if self.output.wandb is not None:
            import_extra("wandb", extra="wandb", purpose="--wandb")
        if self.output.resume is None:
            return
        allowed = dataclasses.replace(
            OutputOptions(),
            resume=self.output.resume,
            tensorboard=self.output.tensorboard,
            wandb=self.output.wandb,
        )
        given = _changed_fields(self, Train(output=allowed))
        require(
            not given,
            "--resume",
            expected="no option beside it but --tensorboard and --wandb, since the run has its own",
            got=", ".join(f"--{name.replace('_', '-')}" for name in given),
        )

    def _open(self, reporter: Reporter) -> tuple[Run, PretrainConfig, Experiment]:
        if self.output.resume is not None:
            run, config, dataset = open_run(self.output.resume)
            experiment = Experiment(config, dataset)
        else:
            dataset = self.data.load()
            config = PretrainConfig.resolve(
                dataset,
                model=self.model,
                data=self.data,
                training=self.training,
                measurement=self.measurement,
            )
            experiment = Experiment(config, dataset)
            run = _create(lambda folder: create_run(config, dataset, folder), self._folders())
        training = config.training
        reporter.note(
            f"{config.model.num_parameters:,} parameters on {dataset.name}: {training.steps:,} "
            f"steps of {training.batch_size} x {dataset.context_length} tokens "
            f"({dataset.num_train:,} sequences to train on, {dataset.num_validation:,} held out, "
            f"vocabulary {dataset.vocab_size:,})\n"
            f"measuring {len(experiment.windows.steps):,} steps in "
            f"{len(experiment.windows.starts)} windows; run folder {shown(run.path)}"
        )
        return run, config, experiment

    def _folders(self) -> Iterator[Path]:
        """Where the run may go, in order of preference."""
        if self.output.out is not None:
            return iter([Path(self.output.out)])
        data = self.data.data
        source = data if data in KNOWN_DATA else Path(data).stem
        size = "custom" if self.model.changes() else self.model.preset
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{source}-{size}")
        return (Path("runs") / f"{name}-{number}" for number in itertools.count(1))

    def _writers(self, run: Run) -> Iterator[Writer]:
        steps_done = max(run.checkpoint_steps(), default=0)
        if self.output.tensorboard:
            yield TensorBoardWriter(run.path / "tensorboard", resumed_at=steps_done or None)
        if self.output.wandb is not None:
            yield WandbWriter(
                self.output.wandb,
                name=run.path.name,
                config=run.config,
                run_id=run.config.get("run_id"),
                folder=run.path,
            )


@contextlib.contextmanager
def _first_stop_signal() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them, once; the second one interrupts."""
    caught: list[int] = []

    def catch(number: int, _: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _create(create: Callable[[Path], Run], folders: Iterator[Path]) -> Run:
    """The first of the folders that can be had; the error of the last, if there is an end."""
    refused: Exception = ValueError("no folder")
    for folder in folders:
        try:
            return create(folder)
        except FileExistsError as error:
            refused = error
    raise refused


def _changed_fields(options: Any, default: Any) -> list[str]:
    changed = []
    for field in dataclasses.fields(options):
        value, usual = getattr(options, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            changed += _changed_fields(value, usual)
        elif value != usual:
            changed.append(field.name)
    return changed


def _print_summary(run: Run, outcome: Outcome, figure: Path | None) -> None:
    console = import_extra("rich.console", extra="run", purpose="the table").Console()
    rows = run.rows()
    console.print(summary_table(rows))
    measured = sum(row["kind"] == "lnp" for row in rows)
    line = f"measured {measured:,} of {outcome.steps_done:,} steps"
    if outcome.tokens_per_second > 0:
        line += f"; {outcome.tokens_per_second:,.0f} tokens/s"
    if outcome.measuring_share >= 0:
        line += f", {outcome.measuring_share:.0%} of the time spent measuring"
    console.print(line, highlight=False)
    for name, path in (("run", run.path), ("figure", figure)):
        if path is not None:
            print(f"{name:<7}{shown(path)}")  # not by rich, which would break long lines
