"""The options of a pre-training run, as the command line shows them, and their checks.

The text under each field is its help on the command line. A field whose default is None is filled
in by `PretrainConfig.resolve` when the data are known, so that a run's `config.json` leaves nothing
open.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from lnpjax._base.checks import check_count, require
from lnpjax._base.configs import decode
from lnpjax.data import Dataset, load_dataset
from lnpjax.data.loading import is_path
from lnpjax.decomposition import Estimator, Exact, GlobalHutchinson, Hutchinson, Normalization
from lnpjax.models import LlamaConfig
from lnpjax.models.presets import PRESETS
from lnpjax.sharding import MeshShape
from lnpjax.training import Windows, log_windows

# fmt: off
LEARNING_RATES = {
    "115K": 5e-3,
    "102.6K": 4e-2, "229.7K": 3e-2, "381.4K": 7e-3, "1.1M": 5e-3, "2.3M": 4e-3, "5.2M": 2e-3,
    "12.5M": 2e-3,
    "1.2M": 1e-2, "2.1M": 5e-3, "3.8M": 5e-3, "7.2M": 4e-3, "15.5M": 2e-3, "31.5M": 6e-4,
    "65.6M": 3e-4, "134M": 1.5e-4,
}
# fmt: on
"""By preset: those of *Spectral Reach*, B.2.1 and B.2.2, and ours for 115K."""
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
MOST_STEPS = 2**31 - 1
"""They are counted in 32 bits on the device."""
LARGEST_SEED = 2**63 - 1
SIZES = ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
"""What of a model's preset can be changed."""
MOST_WINDOWS_PER_DECADE = 10_000
MOST_LAYERS = 10_000
MOST_PARAMETERS = 10**12
STDLIB_CONTEXT_LENGTH = 64  # half the usual one, so that the default run ends in a minute


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A Llama: a size by name, any part of which can be changed.

    Example:
        >>> ModelOptions(preset="1.2M", num_layers=2).changes()
        {'num_layers': 2}

    Args:
        preset: Size by name. The vocabulary is that of the data, and the longest sequence at least
            the context length, so that the number of parameters can differ from the name.
            - 115K: small enough for a laptop.
            - 102.6K, 229.7K, 381.4K, 1.1M, 2.3M, 5.2M, 12.5M: Spectral Reach's for images.
            - 1.2M, 2.1M, 3.8M, 7.2M, 15.5M, 31.5M, 65.6M, 134M: Spectral Reach's for stories.
        num_layers: Blocks. None: the preset's.
        hidden_size: Width of the residual stream. None: the preset's.
        intermediate_size: Width inside the feed-forward. None: the preset's.
        num_heads: Query heads; they divide the hidden size. None: the preset's.
        num_kv_heads: Key and value heads; they divide the query heads. None: as many as query
            heads.
        tie_embeddings: Read out with the transposed embedding instead of a matrix of its own.
        dtype: What the forward pass computes in; parameters, losses and norms stay in float32.
    """

    preset: str = "115K"
    num_layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    tie_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def resolve(self, *, vocab_size: int, context_length: int) -> LlamaConfig:
        """Return the configuration of the model for some data.

        Args:
            vocab_size: that of the data; replaces the preset's.
            context_length: that of the data; sets the longest sequence, if the preset's is shorter.

        Returns:
            The configuration.

        Raises:
            ValueError: if there is no such preset, or the sizes do not fit together.

        Example:
            >>> ModelOptions(preset="1.2M").resolve(vocab_size=256, context_length=64).vocab_size
            256
        """
        require(
            self.preset in PRESETS,
            "preset",
            expected=f"one of {', '.join(PRESETS)}",
            got=repr(self.preset),
        )
        base = PRESETS[self.preset]
        own_heads = self.hidden_size is None and self.num_heads is None
        return dataclasses.replace(
            base,
            **self.changes(),
            head_dim=base.head_dim if own_heads else None,  # else the preset's width would stay
            tie_embeddings=self.tie_embeddings,
            dtype=self.dtype,
            vocab_size=vocab_size,
            max_seq_len=max(base.max_seq_len, context_length),
        )

    def changes(self) -> dict[str, Any]:
        """Return the sizes that are not the preset's."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Text as bytes or tokens, or images as sequences of pixels.

    Example:
        >>> DataOptions(data="digits", num_validation=97).load().num_train
        1700

    Args:
        data: A name or a path.
            - stdlib: 4 MiB of the Python interpreter's standard library; needs no network.
            - digits: scikit-learn's handwritten digits, next pixel; needs no network.
            - simplestories: from the Hugging Face hub.
            - hf:owner/name, or hf:owner/name/CONFIGURATION: text on the Hugging Face hub.
            - .txt, .jsonl, .csv (.gz and .zst too), .parquet, .arrow, or a folder of them: text.
            - .bin, or a folder of them: token ids of nanoGPT or FineWeb, read from the disk.
            - an .npz file of uint8 images: next pixel.
        tokenizer: Path of a Hugging Face tokenizers JSON file. None: the tokens are the bytes, 256
            of them.
        vocab_size: How many tokens there are, for files of token ids without --tokenizer
            (GPT-2's: 50257).
        context_length: Tokens per sequence. None: 64 for stdlib, 128 for other text, one whole
            image for images.
        num_validation: Sequences held out: batch B of each measurement is drawn from them, and the
            validation loss is the mean over all of them.
        max_bytes: Read at most this many bytes of text or of token ids. None: all of it (4 MiB of
            stdlib).
        text_field: Field or column that holds the text. None: text or story.
    """

    data: str = "stdlib"
    tokenizer: str | None = None
    vocab_size: int | None = None
    context_length: int | None = None
    num_validation: int = 160
    max_bytes: int | None = None
    text_field: str | None = None

    def load(self) -> Dataset:
        """Load the data set.

        Returns:
            The data set, whose samples have one target per position.

        Raises:
            ValueError: if a file is not what it should be, there is too little data, or an option
                does not fit the data.
            OSError: if there is no such file, or the hub is unreachable.
            ImportError: if an optional package is not installed; the message names the extra.

        Example:
            >>> DataOptions(max_bytes=20_000, num_validation=8).load().context_length
            64
        """
        context_length = self.context_length
        if context_length is None and self.data == "stdlib":
            context_length = STDLIB_CONTEXT_LENGTH
        return load_dataset(
            self.data,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            context_length=context_length,
            num_validation=self.num_validation,
            max_bytes=self.max_bytes,
            text_field=self.text_field,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """AdamW (b1 0.9, b2 0.95) on the mean cross-entropy, as in Spectral Reach.

    Example:
        >>> TrainingOptions(steps=0).check()
        Traceback (most recent call last):
            ...
        ValueError: steps: expected an integer >= 1, got 0

    Args:
        steps: Training steps (the paper: 66116).
        batch_size: Sequences per batch.
        learning_rate: Learning rate after the warm-up. None: that of the paper for the
            preset, and 0.005 for 115K.
        warmup_steps: Steps over which the learning rate rises linearly to its value; it is constant
            from then on.
        weight_decay: Decoupled weight decay, on all parameters.
        seed: Seed of the initial parameters and of the measurements' random probes.
        data_seed: Seed of the order of the data; separate from --seed, so that models can differ on
            equal data.
        log_every: Steps from one training row to the next; a row is about 150 bytes.
        validate_every: Steps from one validation loss to the next; there is always one after the
            first and one after the last step.
        checkpoint_every: Steps from one checkpoint to the next; there is always one after the last
            step.
        checkpoints_kept: How many of the latest checkpoints are kept in the run.
        mesh: Shard each batch over the devices of the axis data, and the parameters over all
            devices: data=4,model=2 takes eight devices. None: one device. Numbers differ by
            rounding.
    """

    steps: int = 1200
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.01
    seed: int = 0
    data_seed: int = 0
    log_every: int = 1
    validate_every: int = 100
    checkpoint_every: int = 500
    checkpoints_kept: int = 2
    mesh: str | None = None

    def check(self) -> None:
        """Refuse invalid values.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        counts = ("steps", "batch_size", "log_every", "validate_every", "checkpoint_every")
        for name in (*counts, "checkpoints_kept"):
            check_count(name, getattr(self, name))
        for name in ("warmup_steps", "seed", "data_seed"):
            check_count(name, getattr(self, name), least=0)
        for name in ("steps", "warmup_steps"):
            _require_at_most(name, getattr(self, name), MOST_STEPS)
        _require_at_most("seed", self.seed, LARGEST_SEED)
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            fine = value is None or (math.isfinite(value) and value >= 0)
            require(fine, name, expected="a finite number >= 0", got=value)
        if self.mesh is not None:
            require(isinstance(self.mesh, str), "mesh", expected="a text", got=repr(self.mesh))
            require_divisible("batch_size", self.batch_size, MeshShape.parse(self.mesh).data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """The LNP components, in windows of steps that are evenly spaced in the logarithm of the step.

    Batch A is the training batch, batch B one of the same size from the validation set.

    Example:
        >>> MeasurementOptions(estimator="global", num_probes=2).make_estimator()
        GlobalHutchinson(num_probes=2)

    Args:
        windows_per_decade: Windows per factor of ten in steps.
        window_width: Steps per window (the paper: 50). A measured step takes about four times as
            long.
        estimator: How the size of the Jacobian is estimated: hutchinson (independent random signs
            per sequence; precise), global (one probe for the whole batch; least memory, most noise)
            or exact (one backward pass per output; only for tiny models).
        num_probes: Random probes, for hutchinson and global; global has a standard error from two
            on.
        microbatch_size: Sequences whose Jacobians are in memory at once. None: all. The numbers are
            the same to rounding, with one exception: hutchinson needs no probes for the embedding
            and the read-out if all sequences are in memory, but needs them in microbatches. The
            estimates then differ within their standard errors, which are larger in microbatches.
        normalization: What chi_loss and chi_net are made independent of: sample is the number of
            sequences, token the number of tokens, none is nothing. chi_pos is always the same.
        distribution: Also measure, at the first step of each window, how learning is distributed
            over the spectrum, with this many products with the eNTK (16 are enough). Saved in
            RUN/spectra.
        spectra: Also measure, at the first step of each window and at the last step, the spectra of
            each block's activations and of per-sample gradients in the last block, over this many
            held-out sequences (64 are enough). Saved in RUN/spectra.
    """

    windows_per_decade: int = 5
    window_width: int = 10
    estimator: Literal["hutchinson", "global", "exact"] = "hutchinson"
    num_probes: int = 1
    microbatch_size: int | None = None
    normalization: Literal["sample", "token", "none"] = "sample"
    distribution: int = 0
    spectra: int = 0

    def check(self) -> None:
        """Refuse values that are invalid, alone or together.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        for name in ("windows_per_decade", "window_width", "num_probes"):
            check_count(name, getattr(self, name))
        for name in ("distribution", "spectra"):
            check_count(name, getattr(self, name), least=0)
        _require_at_most("windows_per_decade", self.windows_per_decade, MOST_WINDOWS_PER_DECADE)
        require(self.spectra != 1, "spectra", expected="0, or at least 2 sequences", got=1)
        _require_choice("estimator", self.estimator, ("hutchinson", "global", "exact"))
        _require_choice("normalization", self.normalization, ("sample", "token", "none"))
        require(
            self.estimator != "exact" or self.num_probes == 1,
            "num_probes",
            expected="1 with the estimator exact, which draws none",
            got=self.num_probes,
        )
        check_count("microbatch_size", self.microbatch_size, optional=True)
        require(
            self.estimator != "global" or self.microbatch_size is None,
            "microbatch_size",
            expected="None with the estimator global, which has no Jacobians of samples",
            got=self.microbatch_size,
        )

    def windows(self, steps: int) -> Windows:
        """Return the measured steps of a run.

        Args:
            steps: how many steps the run has.

        Raises:
            ValueError: if a window is wider than the run.

        Example:
            >>> len(MeasurementOptions().windows(1000).steps)
            105
        """
        require(
            self.window_width <= steps,
            "window_width",
            expected=f"at most the {steps} steps of the run, so that a window fits",
            got=self.window_width,
        )
        return log_windows(steps, per_decade=self.windows_per_decade, width=self.window_width)

    def make_estimator(self) -> Estimator:
        """Return the estimator of the Jacobian's squared norm."""
        if self.estimator == "exact":
            return Exact(microbatch_size=self.microbatch_size)
        if self.estimator == "global":
            return GlobalHutchinson(self.num_probes)
        return Hutchinson(self.num_probes, microbatch_size=self.microbatch_size)

    def normalization_of_lnp(self) -> Normalization:
        """Return the normalisation as `lnpjax.lnp` takes it."""
        return None if self.normalization == "none" else self.normalization


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
        _require_at_most("num_layers", self.model.num_layers, MOST_LAYERS)
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


def require_divisible(argument: str, value: int, data: int) -> None:
    """Refuse a number of samples that cannot be spread evenly over the axis data of a mesh."""
    expected = f"a multiple of {data}, over as many devices the mesh spreads samples"
    require(value % data == 0, argument, expected=expected, got=value)


def _require_at_most(argument: str, value: int, most: int) -> None:
    require(value <= most, argument, expected=f"an integer <= {most}", got=value)


def _require_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    require(value in choices, argument, expected=f"one of {', '.join(choices)}", got=repr(value))
