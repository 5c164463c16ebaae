"""A network from whatever names one, and batches of data for it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import require
from lnpjax.data import Batches, load_dataset, read_documents
from lnpjax.data.batches import random_order
from lnpjax.data.files import TOKEN_EXTENSIONS, holds
from lnpjax.data.image_classes import LabelledImages, read_labelled_images
from lnpjax.data.loading import is_path
from lnpjax.jacobian import ApplyFn, Batch
from lnpjax.models import LlamaConfig, load_checkpoint
from lnpjax.models.checkpoints.hub import PREFIX
from lnpjax.models.llama2c import PieceTokenizer
from lnpjax.pretraining import Experiment, PretrainConfig, open_run, read_model
from lnpjax.pretraining.config.networks import sample_shape_of, split_model
from lnpjax.runs._rows import METRICS_FILE

LONGEST_BY_DEFAULT = 128
PIECES_FILE = ".bin"
"""What the name of a tokenizer of llama2.c ends with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which data a network is measured on.

    Attributes:
        data: a name or path; None for a run's own.
        tokenizer: for text; None for the model's own, or bytes.
        num_batches: how many batches.
        batch_size: samples in each.
        context_length: tokens per sequence; None for 128, or fewer where the model takes no more.
        pixel_mean: subtracted from pixels from 0 to 1.
        pixel_std: what they are divided by then.
    """

    data: str | None = None
    tokenizer: str | None = None
    num_batches: int = 2
    batch_size: int = 16
    context_length: int | None = None
    pixel_mean: float = 0.0
    pixel_std: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network, at one state or several, with batches of data.

    Attributes:
        name: what it is called.
        apply_fn: its function.
        module: its Flax module.
        states: functions that return parameters, by label.
        batches: of the data.
        folder: of the run; None for others, whose folders are not ours to write to.
        about: what is to be said of the model and of the data, by heading.
    """

    name: str
    apply_fn: ApplyFn
    module: Any
    states: dict[str, Callable[[], PyTree]]
    batches: list[Batch]
    folder: Path | None
    about: dict[str, dict[str, Any]]


def results_of(network: Network, *, in_run: str, elsewhere: str) -> Path:
    """Return where results go by default: into the run, or into a folder for other networks."""
    if network.folder is not None:
        return network.folder / in_run
    return Path(elsewhere) / network.name.removeprefix(PREFIX).replace("/", "-")


def is_run(source: str) -> bool:
    """Return whether a path is the folder of a run of this library."""
    return (Path(source) / METRICS_FILE).is_file()


def at_revisions(source: str, revisions: Sequence[str]) -> list[str]:
    """Return where the revisions of a model are, or the model itself where none are named.

    Args:
        source: ``hf:owner/name``, or a folder with a folder for each revision.
        revisions: their names, several of them separated by commas or not.

    Raises:
        ValueError: if a name is empty, or stands there twice; if `source` names a revision already,
            or is a run.

    Example:
        >>> at_revisions("hf:owner/name", ["step1,step2"])
        ['hf:owner/name@step1', 'hf:owner/name@step2']
        >>> at_revisions("family", ["step1", "step2"])
        ['family/step1', 'family/step2']
    """
    names = [name for given in revisions for name in given.split(",")]
    distinct = len(set(names)) == len(names) and "" not in names
    require(distinct, "--revisions", expected="different names", got=",".join(revisions))
    if not names:
        return [source]
    expected = f"{PREFIX}owner/name or a folder of revisions with it"
    alone = "@" not in source and not is_run(source)
    require(alone, "--revisions", expected=expected, got=source)
    if source.startswith(PREFIX):
        return [f"{source}@{name}" for name in names]
    return [str(Path(source) / name) for name in names]


def open_network(
    source: str,
    choice: DataChoice,
    *,
    step: int | None = None,
    every: bool = False,
    revisions: Sequence[str] = (),
) -> Network:
    """Open a trained network: a run of ours, or what `lnpjax.models.load_checkpoint` reads.

    Args:
        source: a path, or ``hf:owner/name@revision``.
        choice: of the data.
        step: which checkpoint of a run; None for the last.
        every: of a run, its initialisation and all of its checkpoints.
        revisions: of a model of others, which are its states (`at_revisions`).

    Raises:
        ValueError, OSError: if the model or the data are not there, damaged, or do not fit.
    """
    sources = at_revisions(source, revisions)
    if is_run(source):
        return _of_run(source, choice, step, every)
    require(step is None, "--step", expected="a run of lnpjax train with it", got=source)
    first = _of_checkpoint(sources[0], choice, every)
    return _of_family(source, first, sources) if revisions else first


def _of_family(source: str, first: Network, sources: list[str]) -> Network:
    """Return the network whose states are the revisions of a model, each read when it is needed.

    They are all read once before, so that nothing is measured of a family that is none.
    """
    for one in sources[1:]:
        same = load_checkpoint(one).config == first.module.config
        expected = f"a model with the settings of {sources[0]}"
        require(same, "--revisions", expected=expected, got=f"{one} with others")

    def state_of(one: str) -> PyTree:
        return load_checkpoint(one).params

    name = source if source.startswith(PREFIX) else Path(source).resolve().name
    return dataclasses.replace(
        first,
        name=name,
        states={_revision(one): functools.partial(state_of, one) for one in sources},
    )


def _revision(source: str) -> str:
    """Return the name of a revision."""
    return source.rpartition("@")[2] if source.startswith(PREFIX) else Path(source).name


def _of_run(folder: str, choice: DataChoice, step: int | None, every: bool) -> Network:
    path = Path(folder)
    module, config, last = read_model(path, step=step)
    if choice.data is not None:
        batches, data = _data_for(choice, config)
    else:
        for option in ("tokenizer", "context_length"):
            given, name = getattr(choice, option), f"--{option.replace('_', '-')}"
            require(given is None, name, expected="--data with it", got=given)
        whole = config.data.sequences == "packed"
        expected = "text with it, since the run's own sequences are padded"
        require(whole, "--data", expected=expected, got="none")
        _, _, dataset = open_run(path)
        batches = _drawn(dataset, choice, seed=config.training.data_seed)
        data = _about_dataset(dataset, "what the run was trained on")
    name = path.resolve().name
    states = (
        _every_state(path) if every else {f"{name}, step {last}": lambda: split_model(module)[1]}
    )
    return Network(
        name=name,
        apply_fn=split_model(module)[0],
        module=module,
        states=states,
        batches=batches,
        folder=path,
        about={
            "Model": _about(name, folder, type(module).__name__, config.model) | {"step": last},
            "Data": data | _about_batches(batches),
        },
    )


def _data_for(choice: DataChoice, config: PretrainConfig) -> tuple[list[Batch], dict[str, Any]]:
    """Return batches of named data for the model of a run."""
    if isinstance(config.model, LlamaConfig):
        own = config.data.tokenizer
        return _text(choice, config.model.vocab_size, config.model.max_seq_len, own)
    shape = sample_shape_of(config.model)
    assert shape is not None
    return _images(choice, shape)


def _every_state(path: Path) -> dict[str, Callable[[], PyTree]]:
    run, config, dataset = open_run(path)

    def state_of(step: int) -> Callable[[], PyTree]:
        return lambda: split_model(read_model(path, step=step)[0])[1]

    states = {f"step {step}": state_of(step) for step in run.checkpoint_steps()}
    start = Experiment(config, dataset).initial_state
    return {"initialisation": lambda: start().params, **states}


def _of_checkpoint(source: str, choice: DataChoice, every: bool) -> Network:
    model = load_checkpoint(source)
    expected = "text or images to measure on: a name or path"
    require(choice.data is not None, "--data", expected=expected, got="none")
    if hasattr(model.config, "vocab_size"):
        own = None if model.tokenizer_file is None else str(model.tokenizer_file)
        longest = model.config.max_seq_len
        batches, data = _text(choice, model.config.vocab_size, longest, own)
    else:
        batches, data = _images(choice, _image_shape(model.config))
    name = source if source.startswith(PREFIX) else Path(source).resolve().stem
    return Network(
        name=name,
        apply_fn=model.apply_fn,
        module=model.module,
        states={"trained" if every else name: lambda: model.params},
        batches=batches,
        folder=None,
        about={
            "Model": _about(name, source, model.architecture, model.config),
            "Data": data | _about_batches(batches),
        },
    )


def _about(name: str, source: str, architecture: str, config: Any) -> dict[str, Any]:
    sizes = {
        field.name.replace("_", " "): str(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name != "layers"
    }
    known = {"name": name, "read from": source, "architecture": architecture}
    return known | {"parameters": f"{config.num_parameters:,}"} | sizes


def _about_batches(batches: list[Batch]) -> dict[str, Any]:
    inputs = np.asarray(batches[0][0])
    return {"batches": len(batches), "shape of each batch's inputs": str(inputs.shape)}


def _about_dataset(dataset: Any, what: str) -> dict[str, Any]:
    return {"name": dataset.name, "what": what, "fingerprint": dataset.fingerprint}


def _drawn(dataset: Any, choice: DataChoice, *, seed: int) -> list[Batch]:
    needed = choice.num_batches * choice.batch_size
    expected = f"at most 1/{choice.num_batches} of the {dataset.num_train} samples in the data"
    enough = needed <= dataset.num_train
    require(enough, "--batch-size", expected=expected, got=choice.batch_size)
    batches = Batches(dataset, choice.batch_size, seed=seed)
    return [batches.batch(index) for index in range(choice.num_batches)]


def _text(
    choice: DataChoice, vocab_size: int, longest: int, own_tokenizer: str | None
) -> tuple[list[Batch], dict[str, Any]]:
    assert choice.data is not None
    length = choice.context_length or min(LONGEST_BY_DEFAULT, longest)
    fits = length <= longest
    require(fits, "--context-length", expected=f"at most the model's {longest}", got=length)
    tokenizer = choice.tokenizer or own_tokenizer
    if tokenizer is not None and tokenizer.endswith(PIECES_FILE):
        pieces = PieceTokenizer.from_file(tokenizer, vocab_size)
        return _beginning(pieces, choice, length), {"name": choice.data, "tokenizer": tokenizer}
    if is_path(choice.data) and holds(choice.data, TOKEN_EXTENSIONS):
        require(choice.tokenizer is None, "--tokenizer", expected="none for tokens",
                got=choice.tokenizer)  # fmt: skip
        own: dict[str, Any] = {"vocab_size": vocab_size}
        tokenizer = "none: these are tokens"
    else:
        own = {"tokenizer": tokenizer}
    dataset = load_dataset(choice.data, context_length=length, num_validation=1, **own)
    fits = dataset.vocab_size <= vocab_size
    expected = f"at most the model's {vocab_size} tokens"
    require(fits, "--tokenizer", expected=expected, got=dataset.vocab_size)
    about = _about_dataset(dataset, "text") | {"tokenizer": tokenizer or "bytes"}
    return _drawn(dataset, choice, seed=0), about


def _beginning(tokenizer: PieceTokenizer, choice: DataChoice, length: int) -> list[Batch]:
    """Take the beginning of the text, in the order of its documents."""
    assert choice.data is not None
    shape = (choice.num_batches, choice.batch_size, length + 1)
    needed, ids = math.prod(shape), list[int]()
    for document in read_documents(choice.data):
        ids += tokenizer.encode(document)
        if len(ids) >= needed:
            break
    require(
        len(ids) >= needed,
        "--data",
        expected=f"text of at least {needed:,} tokens",
        got=f"{len(ids):,} in {choice.data}",
    )
    tokens = np.array(ids[:needed], np.int32).reshape(shape)
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def _image_shape(config: Any) -> tuple[int, ...]:
    if hasattr(config, "image_shape"):
        return tuple(config.image_shape)
    return config.image_size, config.image_size, config.num_channels


def _images(choice: DataChoice, shape: tuple[int, ...]) -> tuple[list[Batch], dict[str, Any]]:
    assert choice.data is not None
    for name in ("tokenizer", "context_length"):
        value = getattr(choice, name)
        option = f"--{name.replace('_', '-')}"
        require(value is None, option, expected="none for a model of images", got=value)
    images = read_labelled_images(choice.data)
    found = images.images.shape[1:]
    require(found == shape, "--data", expected=f"images of shape {shape}, as the model takes",
            got=f"{found} in {choice.data}")  # fmt: skip
    needed = choice.num_batches * choice.batch_size
    expected = f"at most 1/{choice.num_batches} of the {len(images)} images"
    require(needed <= len(images), "--batch-size", expected=expected, got=choice.batch_size)
    rows = random_order(len(images), seed=0, stream=(0,))[:needed]
    batches = [_normalised(images, part, choice) for part in rows.reshape(choice.num_batches, -1)]
    about = {"name": choice.data, "what": f"{len(images)} labelled images", "pixels": "from 0 to 1"}
    if (choice.pixel_mean, choice.pixel_std) != (0.0, 1.0):
        about["pixels"] += f", less {choice.pixel_mean}, over {choice.pixel_std}"
    return batches, about


def _normalised(images: LabelledImages, rows: np.ndarray, choice: DataChoice) -> Batch:
    pixels, labels = images.take(rows)
    return ((pixels - choice.pixel_mean) / choice.pixel_std).astype(np.float32), labels
