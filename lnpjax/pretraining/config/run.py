"""All options of a run together, as its `config.json` has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lnpjax._base.checks import require
from lnpjax._base.configs import decode
from lnpjax.data import Dataset
from lnpjax.data.loading import is_path
from lnpjax.models import LlamaConfig
from lnpjax.pretraining.config._checks import require_at_most
from lnpjax.pretraining.config.data import DataOptions
from lnpjax.pretraining.config.measurement import MeasurementOptions
from lnpjax.pretraining.config.model import ModelOptions
from lnpjax.pretraining.config.training import LEARNING_RATES, TrainingOptions

ADDED_LATER = frozenset(
    {
        "data/vocab_size",
        "measurement/distribution",
        "measurement/spectra",
        "model/rope_scaling",
        "training/checkpoints_kept",
        "training/mesh",
    }
)
"""Options that runs of version 0.1.0 lack; these ran as with the defaults."""
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

    def __post_init__(self) -> None:
        self.training.check()
        self.measurement.check()
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
    ) -> Self:
        """Fill in what the options leave to the data and to the preset.

        Args:
            dataset: the data set that `data` loads.
            model: the model; `ModelOptions()` if None.
            data: where the data come from, `DataOptions()` if None; paths become absolute.
            training: how it is trained; `TrainingOptions()` if None.
            measurement: what is measured; `MeasurementOptions()` if None.

        Returns:
            The configuration.

        Raises:
            ValueError: if options do not fit together, or the data.

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
        paths: dict[str, Any] = {
            name: str(Path(value).absolute())
            for name, value in (("data", data.data), ("tokenizer", data.tokenizer))
            if value is not None and value != "bytes" and is_path(value)
        }
        data = dataclasses.replace(data, **paths, context_length=context_length)
        return cls(model=llama, data=data, training=training, measurement=measurement)

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
        for section in dataclasses.fields(cls):
            values, names = config.get(section.name), _SECTIONS[section.name]
            present = sorted(names & set(values)) if isinstance(values, Mapping) else []
            needed = {name for name in names if f"{section.name}/{name}" not in ADDED_LATER}
            require(
                needed <= set(present),
                f"{source}: {section.name}",
                expected=f"an object with {', '.join(sorted(names))}",
                got=present or repr(values),
            )
        return decode(cls, config, source=source, refuse_unknown=refuse_unknown)

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
    )
}
"""The fields of each section of a configuration."""
