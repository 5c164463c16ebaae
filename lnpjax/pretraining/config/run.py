"""All options of a run together, as its `config.json` has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lnpjax._base.checks import require
from lnpjax._base.configs import decode
from lnpjax.data import Dataset
from lnpjax.data.datasets import num_test
from lnpjax.data.loading import is_path
from lnpjax.models import LlamaConfig
from lnpjax.pretraining.config._checks import require_at_most
from lnpjax.pretraining.config.data import DataOptions
from lnpjax.pretraining.config.measurement import MeasurementOptions
from lnpjax.pretraining.config.model import ModelOptions
from lnpjax.pretraining.config.start import StartOptions
from lnpjax.pretraining.config.training import LEARNING_RATES, TrainingOptions

ADDED_LATER: Mapping[str, Any] = {
    "data/held_out": None,
    "data/num_test": 0,
    "data/sequences": "packed",
    "data/vocab_size": None,
    "measurement/distribution": 0,
    "measurement/hidden_states": "raw",
    "measurement/open_end": True,
    "measurement/spectra": 0,
    "model/rope_scaling": None,
    "start/fresh": None,
    "start/init_from": None,
    "start/init_step": None,
    "start/wrt": None,
    "training/checkpoints_at": None,
    "training/checkpoints_kept": 2,
    "training/clip_norm": None,
    "training/decay_steps": None,
    "training/fill_last_batch": False,
    "training/final_share": 0.0,
    "training/mesh": None,
    "training/schedule": "constant",
    "training/test_every": None,
}
"""Options that runs of earlier versions lack, and what these ran with."""
MOST_LAYERS = 10_000
MOST_PARAMETERS = 10**12


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides the rows and parameters of a run, besides the data themselves.

    Args:
        model: the model.
        data: where the data come from.
        training: how it is trained; the learning rate is a number.
        measurement: what is measured.
        start: where the parameters start, and which of them are trained.

    Example:
        >>> model = ModelOptions().resolve(vocab_size=256, context_length=64)
        >>> config = PretrainConfig(
        ...     model=model,
        ...     data=DataOptions(context_length=64),
        ...     training=TrainingOptions(learning_rate=0.005),
        ...     measurement=MeasurementOptions(),
        ... )
        >>> PretrainConfig.from_json(config.to_json(), source="memory") == config
        True
    """

    model: LlamaConfig
    data: DataOptions
    training: TrainingOptions
    measurement: MeasurementOptions
    start: StartOptions = dataclasses.field(default_factory=StartOptions)

    def __post_init__(self) -> None:
        self.training.check()
        self.measurement.check()
        self.start.check()
        rate = self.training.learning_rate
        require(rate is not None, "learning_rate", expected="a number (see resolve)", got=rate)
        self.measurement.windows(self.training.steps)  # refuses a window wider than the run
        require_at_most("num_layers", self.model.num_layers, MOST_LAYERS)
        size = self.model.num_parameters
        expected = f"at most {MOST_PARAMETERS:,} parameters"
        require(size <= MOST_PARAMETERS, "model", expected=expected, got=f"{size:,}")

    @classmethod
    def resolve(
        cls,
        dataset: Dataset,
        *,
        model: ModelOptions | None = None,
        data: DataOptions | None = None,
        training: TrainingOptions | None = None,
        measurement: MeasurementOptions | None = None,
        start: StartOptions | None = None,
    ) -> Self:
        """Fill in what the options leave to the data and to the preset.

        Args:
            dataset: the data set that `data` loads.
            model: the model; `ModelOptions()` if None.
            data: where the data come from, `DataOptions()` if None; paths become absolute.
            training: how it is trained; `TrainingOptions()` if None.
            measurement: what is measured; `MeasurementOptions()` if None.
            start: where the parameters start; `StartOptions()` if None.

        Returns:
            The configuration.

        Raises:
            ValueError: if options do not fit together, or the data, or the run to start from.
            FileNotFoundError: if there is no such run.

        Example:
            >>> data = DataOptions(max_bytes=20_000, num_validation=8)
            >>> PretrainConfig.resolve(data.load(), data=data).model.num_parameters
            115008
        """
        model, data = model or ModelOptions(), data or DataOptions()
        training, measurement = training or TrainingOptions(), measurement or MeasurementOptions()
        context_length = dataset.context_length
        require(
            context_length is not None,
            "data",
            expected="sequences, with one target per position",
            got=f"one label per sample, in {dataset.name}",
        )
        llama = model.resolve(vocab_size=dataset.vocab_size, context_length=context_length or 1)
        if training.learning_rate is None:
            rate = LEARNING_RATES[model.preset]
            training = dataclasses.replace(training, learning_rate=rate)
        if training.schedule == "wsd":
            training.check()
            training = dataclasses.replace(training, decay_steps=training.steps_of_decay())
        paths: dict[str, Any] = {
            name: str(Path(value).absolute())
            for name, value in (("data", data.data), ("tokenizer", data.tokenizer))
            if value is not None and value != "bytes" and is_path(value)
        }
        data = dataclasses.replace(
            data, **paths, context_length=context_length, num_test=num_test(dataset)
        )
        start = start or StartOptions()
        config = cls(
            model=llama, data=data, training=training, measurement=measurement, start=start
        )
        return dataclasses.replace(config, start=start.resolve(llama))  # of a model of checked size

    @classmethod
    def from_json(
        cls, config: Mapping[str, Any], *, source: str, refuse_unknown: bool = False
    ) -> Self:
        """Undo `to_json`.

        Args:
            config: the configuration of a run.
            source: what it is called in messages.
            refuse_unknown: whether keys that `to_json` does not write are refused, or ignored.

        Returns:
            The configuration.

        Raises:
            ValueError: if a section or field is missing or invalid.
            ImportError: if cattrs is missing.
        """
        whole = dict(config)
        for section, names in _SECTIONS.items():
            later = {
                n: ADDED_LATER[f"{section}/{n}"] for n in names if f"{section}/{n}" in ADDED_LATER
            }
            values = config.get(section, {} if later.keys() == names else None)
            present = sorted(names & set(values)) if isinstance(values, Mapping) else []
            complete = isinstance(values, Mapping) and names - later.keys() <= set(present)
            require(
                complete,
                f"{source}: {section}",
                expected=f"an object with {', '.join(sorted(names))}",
                got=present or repr(values),
            )
            whole[section] = later | dict(values or {})
        return decode(cls, whole, source=source, refuse_unknown=refuse_unknown)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, and `from_json` reads back."""
        return dataclasses.asdict(self)


_SECTIONS = {
    section: {field.name for field in dataclasses.fields(kind)}
    for section, kind in (
        ("model", LlamaConfig),
        ("data", DataOptions),
        ("training", TrainingOptions),
        ("measurement", MeasurementOptions),
        ("start", StartOptions),
    )
}
"""The fields of each section of a configuration."""
