"""Which parameters a run starts from, and which of them it trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lnpjax import parameters
from lnpjax._base.checks import check_count, require
from lnpjax.pretraining.config.networks import ModelConfig, model_from_json, shapes_of
from lnpjax.pretraining.config.own import MakeModel
from lnpjax.runs import Run
from lnpjax.runs._rows import CONFIG_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Parameters of another run to start from, and the part that is trained (linear probes).

    Example:
        >>> StartOptions(wrt="norm,head").groups("wrt")
        ('norm', 'head')

    Args:
        init_from: Start from the parameters of this run, whose model has the same shape. None: from
            random ones.
        init_step: Which of its checkpoints. None: the last.
        fresh: Parts that start from random parameters all the same: paths of parameters with
            commas, such as head, or layers/3. None: no part.
        wrt: Train and measure these parts alone, and leave the others as they are: paths with
            commas. --wrt head is a linear probe. None: everything.
    """

    init_from: str | None = None
    init_step: int | None = None
    fresh: str | None = None
    wrt: str | None = None

    def check(self) -> None:
        """Refuse values that are invalid, alone or together.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        check_count("init_step", self.init_step, optional=True)
        for name in ("init_step", "fresh"):
            value, alone = getattr(self, name), self.init_from is None
            expected = "None without init_from"
            require(not alone or value is None, name, expected=expected, got=repr(value))

    def groups(self, name: str) -> tuple[str, ...]:
        """Return the paths that `fresh` or `wrt` name.

        Args:
            name: of the option.
        """
        text: str | None = getattr(self, name)
        return () if text is None else tuple(part.strip() for part in text.split(","))

    def resolve(self, model: ModelConfig, make_model: MakeModel | None = None) -> StartOptions:
        """Check the parts and the other run against a model, and name its checkpoint.

        Args:
            model: that of the run that starts.
            make_model: the function that makes it, if it is one of a file.

        Returns:
            The options, with the folder as an absolute path and the step of its checkpoint.

        Raises:
            ValueError: if a part is not one of the model, or the other run's model has another
                shape, or no such checkpoint.
            FileNotFoundError: if there is no such run.

        Example:
            >>> from lnpjax.models.presets import PRESETS
            >>> StartOptions(wrt="heads").resolve(PRESETS["115K"])
            Traceback (most recent call last):
                ...
            ValueError: wrt: expected parts of the model (embedding, head, layers, ...), got 'heads'
        """
        self.check()
        if self == StartOptions():
            return self
        ours = shapes_of(model, make_model)
        for name in ("fresh", "wrt"):
            for group in self.groups(name):
                tops = ", ".join(sorted({path.split("/")[0] for path in ours}))
                expected = f"parts of the model ({tops}, or paths within them)"
                among = any(is_within(path, (group,)) for path in ours)
                require(among, name, expected=expected, got=repr(group))
        if self.init_from is None:
            return self
        run = Run.open(self.init_from)
        source = str(run.path / CONFIG_FILE)
        there = model_from_json(run.config.get("model"), source=f"{source}: model")
        theirs = shapes_of(there, make_model)
        for path in ours | theirs:
            shape, other = ours.get(path, "none"), theirs.get(path, "none")
            expected = f"a run whose model has {path} of shape {shape}, or --fresh {path}"
            same = shape == other or is_within(path, self.groups("fresh"))
            require(same, "init_from", expected=expected, got=f"{other} in {run.path}")
        steps = run.checkpoint_steps()
        step = max(steps, default=None) if self.init_step is None else self.init_step
        got = f"{step} (there are {steps}) in {run.path}"
        require(step in steps, "init_step", expected="a checkpoint of the run", got=got)
        folder = str(Path(self.init_from).absolute())
        return dataclasses.replace(self, init_from=folder, init_step=step)


def is_within(path: str, groups: tuple[str, ...]) -> bool:
    """Return whether a parameter belongs to one of some parts."""
    return any(parameters.is_under(path, group) for group in groups)
