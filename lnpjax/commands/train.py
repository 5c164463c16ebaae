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

import jax
from jax.sharding import Mesh

from lnpjax._base.checks import import_extra, require
from lnpjax._base.reporting import Reporter
from lnpjax.commands._exit import Exit
from lnpjax.commands._files import open_to_read
from lnpjax.commands._show import console, courtesy, shown
from lnpjax.data import KNOWN_DATA
from lnpjax.data.datasets import num_test
from lnpjax.plotting import plot_run
from lnpjax.pretraining import (
    DataOptions,
    Experiment,
    MeasurementOptions,
    ModelOptions,
    Outcome,
    PretrainConfig,
    StartOptions,
    TrainingOptions,
    create_run,
    load_same_data,
    pretrain,
)
from lnpjax.pretraining.config import LEARNING_RATES, RECIPES, RecipeName, recipe_of
from lnpjax.pretraining.config.own import (
    MakeModel,
    OwnConfig,
    check_same_code,
    is_own,
    load_function,
)
from lnpjax.pretraining.processes import Group, ProcessOptions, SharedRun, StopTogether, joined
from lnpjax.runs import (
    Run,
    TensorBoardWriter,
    TrackioWriter,
    WandbWriter,
    Writer,
    differences,
    summary_table,
    terminal_reporter,
)
from lnpjax.runs._rows import CONFIG_FILE
from lnpjax.sharding import make_mesh

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: a closed terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """A run is a folder with its configuration, rows, checkpoints and figures.

    Args:
        out: A new folder for the run; one that holds a run is never overwritten. None:
            runs/DATA-PRESET-N with the first free N.
        resume: Go on with the run in this folder from its last checkpoint, with its own
            configuration. The only other options allowed are --force, --tensorboard,
            --tensorboard-all, --wandb, --trackio and those that join processes; and --model
            FILE.py:FUNCTION, which a run of a model of your own needs again, since no code runs
            because a run names it.
        force: With --resume, go on although releases, settings of JAX or the kind of device are
            others, so that the numbers differ from those of an uninterrupted run.
        tensorboard: Also write event files for TensorBoard into the run (needs the extra
            tensorboard): losses, learning rate, the components with their errors, and chi_pos of
            the groups.
        tensorboard_all: As --tensorboard, with every number of the rows.
        wandb: Also log to this project of Weights & Biases (needs the extra wandb); WANDB_MODE says
            how. None: no logging.
        trackio: Also log to this project of trackio (needs the extra trackio). None: no logging.
    """

    out: str | None = None
    resume: str | None = None
    force: bool = False
    tensorboard: bool = False
    tensorboard_all: bool = False
    wandb: str | None = None
    trackio: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network on text or images, and measure where in the spectrum it learns.

    While the model trains, the linearised change of its loss is split into chi_loss (how wrong the
    predictions are), chi_net (how strongly the outputs respond to the parameters) and chi_pos: in
    which part of the spectrum of the empirical neural tangent kernel learning takes place. The rows
    go to RUN/metrics.jsonl, the curves over training compute to RUN/figures. Without options, a
    Llama of 115K parameters trains on the Python library's sources, in about a minute on two cores;
    with --task classify alone, a vision transformer of 70K learns handwritten digits.
    A run that was stopped by Ctrl-C, or killed, goes on with --resume RUN and ends with exactly
    what an uninterrupted run has. --mesh shards a run over many devices, --coordinator over
    processes.

    Args:
        config: Take options from this JSON or YAML file, by name or in their sections; options on
            the command line override it. The config.json of a run makes the same run again.
        recipe: Take the settings of Spectral Reach together: steps, batch, sequences, what is held
            out, windows of 50 steps. Other options and --config override it; --preset names the
            size. Only the probes are ours (see --num-probes).
            - stories: SimpleStories, one story to a sequence of 512 tokens, cut or padded; its
              vocabulary of 4096 needs its --tokenizer.
            - pixels: CIFAR-5M's grey pixels, from the folder cifar5m, unless --data names another.
    """

    config: str | None = None
    recipe: RecipeName | None = None
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    measurement: MeasurementOptions = dataclasses.field(default_factory=MeasurementOptions)
    start: StartOptions = dataclasses.field(default_factory=StartOptions)
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)
    processes: ProcessOptions = dataclasses.field(default_factory=ProcessOptions)

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        self._check()
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(joined(self.processes))
            own, experiment = self._reopen(group) if self.output.resume else self._start(group)
            run: Run | SharedRun = own if own and group.count == 1 else SharedRun(own, group)
            stack.enter_context(contextlib.closing(run))
            reporter = terminal_reporter() if group.is_first else Reporter()
            _announce(run, experiment, reporter)
            self._warn_of_misfits(reporter)
            writers = group.together(lambda: list(self._writers(own)))
            for writer in writers:
                stack.enter_context(contextlib.closing(writer))
            stop_signal = stack.enter_context(catch_stop_signal())
            outcome = pretrain(
                experiment,
                run,
                writers=writers,
                reporter=reporter,
                should_stop=_should_stop(stop_signal, group, experiment.mesh),
                force=self.output.force,
            )
            if own is not None:
                figure = plot_run(own) if own.rows() else None
                with courtesy():
                    _print_summary(own, outcome, figure)
        if outcome.status == "stopped":
            where = shlex.quote(shown(run.path))
            steps = f"{outcome.steps_done} of {experiment.config.training.steps} steps"
            state = "saved" if outcome.steps_done else "with nothing to save"
            reporter.note(
                f"stopped after {steps}, {state}; go on with: lnpjax train --resume {where}"
            )
            return 128 + (stop_signal or [signal.SIGTERM])[0]  # another process may have caught it
        return Exit.DONE if outcome.status == "finished" else Exit.DIVERGED

    def _check(self) -> None:
        """Refuse what can be refused before the data are read, which can take long."""
        self.data.check()
        self.training.check()
        self.measurement.check()
        self.start.check()
        self.processes.check()
        if self.output.tensorboard or self.output.tensorboard_all:
            import_extra("tensorboardX", extra="tensorboard", purpose="--tensorboard")
        if self.output.wandb is not None:
            import_extra("wandb", extra="wandb", purpose="--wandb")
        if self.output.trackio is not None:
            import_extra("trackio", extra="trackio", purpose="--trackio")
        if self.output.resume is None:
            require(not self.output.force, "--force", expected="--resume RUN with it", got="none")
            return
        allowed = dataclasses.replace(self.output, out=None)
        own = ModelOptions(model=self.model.model if is_own(self.model.model) else None)
        given = _changed_fields(self, Train(model=own, output=allowed, processes=self.processes))
        sources = [name for name in ("config", "recipe") if getattr(self, name) is not None]
        given = sources or given
        require(
            not given,
            "--resume",
            expected="no option with it except --force, --tensorboard, --tensorboard-all, --wandb, "
            "--trackio, those that join processes and --model FILE.py:FUNCTION, since the run has "
            "its own",
            got=", ".join(f"--{name.replace('_', '-')}" for name in given),
        )

    def _warn_of_misfits(self, reporter: Reporter) -> None:
        """Say where a setting of the paper meets another that it was not chosen for."""
        if self.recipe == "stories" and self.data.tokenizer is None:
            reporter.warn(
                "without --tokenizer the tokens are bytes, of which most stories have more than "
                f"{self.data.context_length}: they are cut there"
            )
        preset = self.model.preset_of("llama")
        name = recipe_of(preset) if preset and self.model.model in (None, "llama") else None
        if (
            preset is None
            or name is None
            or self.data.classifies
            or self.training.learning_rate is not None
            or self.output.resume
        ):
            return
        size, ours = RECIPES[name]["training"]["batch_size"], self.training.batch_size
        if ours != size:
            reporter.warn(
                f"the learning rate of {preset}, {LEARNING_RATES[preset]:g}, is the paper's for "
                f"batches of {size}, not of {ours}: --recipe {name} sets both, and --learning-rate "
                "another"
            )

    def _start(self, group: Group) -> tuple[Run | None, Experiment]:
        """Start a run; the first process has its folder."""

        def load() -> Experiment:
            mesh = _mesh(self.training.mesh, group)  # before the data, which can take long
            data = self.data.with_test()
            dataset = data.load()
            config = PretrainConfig.resolve(
                dataset,
                model=self.model,
                data=data,
                training=self.training,
                measurement=self.measurement,
                start=self.start,
            )
            return Experiment(config, dataset, mesh=mesh, make_model=self._own_function())

        def check_alike() -> None:
            for name, theirs, ours in differences(first, given):
                require(False, name, expected=f"{theirs!r}, as process 0 has it", got=repr(ours))

        experiment = group.together(load)
        config, dataset = experiment.config, experiment.dataset
        given = config.to_json() | {"fingerprint of the data": dataset.fingerprint}
        first = group.from_first(given)
        group.together(check_alike)
        own = group.together(
            lambda: (
                _create(lambda folder: create_run(config, dataset, folder), self._folders())
                if group.is_first
                else None
            )
        )
        return own, experiment

    def _reopen(self, group: Group) -> tuple[Run | None, Experiment]:
        """Open the run to go on with, which only the first process reads."""
        folder = self.output.resume
        assert folder is not None

        def load() -> Experiment:
            config = PretrainConfig.from_json(written, source=f"{path}/{CONFIG_FILE}")
            mesh = _mesh(config.training.mesh, group)
            own = self._own_function(config, path)
            dataset = load_same_data(config, written, path)
            return Experiment(config, dataset, mesh=mesh, make_model=own)

        own = group.together(lambda: open_to_read(folder) if group.is_first else None)
        path, written = group.from_first(own and [str(own.path), own.config])
        return own, group.together(load)

    def _own_function(
        self, config: PretrainConfig | None = None, path: str | None = None
    ) -> MakeModel | None:
        """Return the function of a model of one's own; of a run, the one that it was started with.

        Only the command line names the file that is run, never the run.
        """
        name = self.model.model
        named = name if name is not None and is_own(name) else None
        if config is not None:
            ran = config.model
            if isinstance(ran, OwnConfig):
                expected = f"FILE.py:{ran.function} again, since {path} is of a model of your own"
                require(named is not None, "--model", expected=expected, got="none")
                assert named is not None
                check_same_code(ran, named)
            else:
                expected = f"none with --resume, since the model of {path} is not of a file"
                require(named is None, "--model", expected=expected, got=named)
        return None if named is None else load_function(named)

    def _folders(self) -> Iterator[Path]:
        """Return where the run may go, in order of preference."""
        if self.output.out is not None:
            return iter([Path(self.output.out)])
        data = self.data.source
        source = data if data in KNOWN_DATA else Path(data).stem
        kind = self.model.kind(classifies=self.data.classifies)
        size = "custom" if self.model.changes() else self.model.preset_of(kind) or kind
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{source}-{size}")
        return (Path("runs") / f"{name}-{number}" for number in itertools.count(1))

    def _writers(self, run: Run | None) -> Iterator[Writer]:
        if run is None:
            return
        steps_done = max(run.checkpoint_steps(), default=0)
        everything = self.output.tensorboard_all
        if self.output.tensorboard or everything:
            yield TensorBoardWriter(
                run.path / "tensorboard", resumed_at=steps_done or None, everything=everything
            )
        config = run.config
        if self.output.wandb is not None:
            yield WandbWriter(
                self.output.wandb,
                name=run.path.name,
                config=config,
                run_id=config.get("run_id"),
                folder=run.path,
            )
        if self.output.trackio is not None:
            name = "-".join(filter(None, (run.path.name, config.get("run_id"))))
            yield TrackioWriter(self.output.trackio, name=name, config=config)


@contextlib.contextmanager
def catch_stop_signal() -> Iterator[list[int]]:
    """Collect stop signals instead of dying of the first; the second one ends the process at once.

    SIGHUP stays ignored where it is, as under `nohup`. The others are caught even so: shells start
    jobs in the background with SIGINT ignored, and who sends it to one means it.
    """
    caught: list[int] = []
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [n for n in STOP_SIGNALS if not (under_nohup and n == signal.SIGHUP)]

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)
        for other in numbers:  # not by a function of Python, which would wait for one of C
            again = signal.SIG_IGN if other == signal.SIGHUP else signal.SIG_DFL  # it comes twice
            signal.signal(other, again)

    before = {number: signal.signal(number, catch) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: JAX's own


def _should_stop(stop_signal: list[int], group: Group, mesh: Mesh | None) -> Callable[[], bool]:
    def wanted() -> bool:
        return bool(stop_signal)

    return wanted if mesh is None or group.count == 1 else StopTogether(wanted, mesh)


def _mesh(shape: str | None, group: Group) -> Mesh | None:
    if shape is not None:
        return make_mesh(shape)
    expected = f"a shape over the devices of all processes, such as data={jax.device_count()}"
    require(group.count == 1, "mesh", expected=expected, got=None)
    return None


def _announce(run: Run | SharedRun, experiment: Experiment, reporter: Reporter) -> None:
    training, dataset = experiment.config.training, experiment.dataset
    mesh = "" if training.mesh is None else f", over {training.mesh}"
    if experiment.classifies:
        of, samples, targets = "images", "images", f"{dataset.vocab_size:,} classes"
    else:
        of, samples = f"x {dataset.context_length} tokens", "sequences"
        targets = f"vocabulary {dataset.vocab_size:,}"
    reporter.note(
        f"{experiment.config.model.num_parameters:,} parameters on {dataset.name}: "
        f"{training.steps:,} steps of {training.batch_size} {of}"
        f"{mesh} ({dataset.num_train:,} {samples} to train on, {dataset.num_validation:,} to "
        f"validate, {num_test(dataset):,} to test, {targets})\n"
        f"measuring {len(experiment.windows.steps):,} steps in "
        f"{len(experiment.windows.starts)} windows; run folder {shown(run.path)}"
    )


def _create(create: Callable[[Path], Run], folders: Iterator[Path]) -> Run:
    """Make the first folder that is free; raise the error of the last, if there is an end."""
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
    screen, rows = console(), run.rows()
    screen.print(summary_table(rows))
    measured = sum(row["kind"] == "lnp" for row in rows)
    line = f"measured {measured:,} of {outcome.steps_done:,} steps"
    if outcome.tokens_per_second > 0:
        line += f"; {outcome.tokens_per_second:,.0f} tokens/s"
    if outcome.measuring_share >= 0:
        line += f", {outcome.measuring_share:.0%} of the time spent measuring"
    screen.print(line, highlight=False)
    for name, path in (("run", run.path), ("figure", figure)):
        if path is not None:
            print(f"{name:<7}{shown(path)}")  # not by rich, which would break long lines
