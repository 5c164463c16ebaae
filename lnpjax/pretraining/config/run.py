"""All options of a run together, as its `config.json` has them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from lnpjax._base.checks import require
from lnpjax._base.configs import decode
from lnpjax.data import Dataset
from lnpjax.data.datasets import num_test
from lnpjax.data.loading import is_path
from lnpjax.pretraining.config._checks import require_at_most
from lnpjax.pretraining.config.data import DataOptions
from lnpjax.pretraining.config.measurement import MeasurementOptions
from lnpjax.pretraining.config.model import ModelOptions
from lnpjax.pretraining.config.networks import (
    KIND,
    KINDS,
    ModelConfig,
    kind_and_values,
    kind_of_model,
    model_from_json,
)
from lnpjax.pretraining.config.own import load_function
from lnpjax.pretraining.config.start import StartOptions
from lnpjax.pretraining.config.training import TrainingOptions, learning_rate_by_size

ADDED_LATER: Mapping[str, Any] = {
    "data/held_out": None,
    "data/num_classes": None,
    "data/num_test": 0,
    "data/sequences": "packed",
    "data/task": None,
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

    model: ModelConfig
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
        require_at_most("num_layers", getattr(self.model, "num_layers", 0), MOST_LAYERS)
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
        kind = model.kind(classifies=context_length is None)
        inputs = dataset.train(np.array([0]))[0]
        network = model.resolve(
            vocab_size=dataset.vocab_size,
            context_length=context_length,
            sample_shape=inputs.shape[1:],
        )
        if training.learning_rate is None:
            rate = learning_rate_by_size(kind, model.preset_of(kind))
            training = dataclasses.replace(training, learning_rate=rate)
        measurement = measurement.resolve(dataset.vocab_size * (context_length or 1))
        if training.schedule == "wsd":
            training.check()
            training = dataclasses.replace(training, decay_steps=training.steps_of_decay())
        paths: dict[str, Any] = {
            name: str(Path(value).absolute())
            for name, value in (("data", data.source), ("tokenizer", data.tokenizer))
            if value is not None and value != "bytes" and is_path(value)
        }
        paths = {"data": data.source} | paths
        data = dataclasses.replace(
            data, **paths, context_length=context_length, num_test=num_test(dataset)
        )
        start = start or StartOptions()
        config = cls(
            model=network, data=data, training=training, measurement=measurement, start=start
        )
        own = load_function(model.model) if kind == "own" and model.model else None
        start = start.resolve(network, own)  # of a model of checked size
        return dataclasses.replace(config, start=start)

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
        kind, whole["model"] = kind_and_values(config.get("model"), source=f"{source}: model")
        for section, names in _sections(kind).items():
            later = {
                n: ADDED_LATER[f"{section}/{n}"] for n in names if f"{section}/{n}" in ADDED_LATER
            }
            values = whole.get(section, {} if later.keys() == names else None)
            present = sorted(names & set(values)) if isinstance(values, Mapping) else []
            complete = isinstance(values, Mapping) and names - later.keys() <= set(present)
            require(
                complete,
                f"{source}: {section}",
                expected=f"an object with {', '.join(sorted(names))}",
                got=present or repr(values),
            )
            whole[section] = later | dict(values or {})
        model = {KIND: kind} | whole["model"]
        whole["model"] = model_from_json(
            model, source=f"{source}: model", refuse_unknown=refuse_unknown
        )
        return decode(cls, whole, source=source, refuse_unknown=refuse_unknown)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, and `from_json` reads back."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        kind = kind_of_model(self.model)
        if kind != "llama":
            values["model"] = {KIND: kind} | values["model"]
        return values


def _sections(kind: str) -> dict[str, set[str]]:
    """Return the fields of each section of a configuration, with a kind of network."""
    sections = {
        "model": KINDS[kind],
        "data": DataOptions,
        "training": TrainingOptions,
        "measurement": MeasurementOptions,
        "start": StartOptions,
    }
    return {name: {field.name for field in dataclasses.fields(of)} for name, of in sections.items()}
