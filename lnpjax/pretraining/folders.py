"""The folder of a pre-training run: how it starts, and how it is opened again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from flax import nnx

from lnpjax._base.checks import require
from lnpjax._version import __version__
from lnpjax.data import Dataset
from lnpjax.pretraining.config import PretrainConfig
from lnpjax.pretraining.config.networks import abstract_model
from lnpjax.pretraining.config.own import MakeModel
from lnpjax.runs import Run
from lnpjax.runs._rows import CONFIG_FILE

DESCRIPTIVE = {
    "run": ("lnpjax_version", "run_id", "num_parameters", "checkpoints_kept", "checkpoints_at"),
    "data": ("name", "num_train", "fingerprint"),
}
"""What `config.json` and its section "data" say besides the configuration."""


def create_run(config: PretrainConfig, dataset: Dataset, path: str | os.PathLike[str]) -> Run:
    """Make the folder of a run.

    Args:
        config: the configuration.
        dataset: the data set that `config.data` loads.
        path: a new or empty folder.

    Returns:
        The run, whose `config.json` holds the configuration and what identifies the data.

    Raises:
        FileExistsError: if the folder is not empty.

    Example:
        >>> import tempfile
        >>> from lnpjax.pretraining import DataOptions
        >>> data = DataOptions(max_bytes=20_000, num_validation=8)
        >>> dataset = data.load()
        >>> config = PretrainConfig.resolve(dataset, data=data)
        >>> with create_run(config, dataset, tempfile.mkdtemp()) as run:
        ...     run.config["num_parameters"], run.rows()
        (115008, [])
    """
    description = config.to_json()
    description["data"] |= {
        "name": dataset.name,
        "num_train": dataset.num_train,
        "fingerprint": dataset.fingerprint,
    }
    return Run.create(
        path,
        {
            "lnpjax_version": __version__,
            "run_id": uuid.uuid4().hex[:8],  # names the run to services that outlive this process
            "num_parameters": config.model.num_parameters,
            "checkpoints_kept": config.training.checkpoints_kept,
            "checkpoints_at": list(config.training.pinned_steps()),
            **description,
        },
    )


def open_run(path: str | os.PathLike[str]) -> tuple[Run, PretrainConfig, Dataset]:
    """Open a run that `create_run` started, to go on with it.

    Args:
        path: its folder.

    Returns:
        The run, its configuration, and its data set, loaded again.

    Raises:
        ValueError: if the folder is corrupt, or the data are no longer what they were.
        OSError: if the run or its data are unreadable.
        ImportError: if an optional package that reads the data is not installed.

    Example:
        >>> import tempfile
        >>> from lnpjax.pretraining import DataOptions
        >>> data = DataOptions(max_bytes=20_000, num_validation=8)
        >>> dataset = data.load()
        >>> folder = tempfile.mkdtemp()
        >>> create_run(PretrainConfig.resolve(dataset, data=data), dataset, folder).close()
        >>> run, config, dataset = open_run(folder)
        >>> config.training.steps, dataset.num_validation
        (1200, 8)
    """
    run = Run.open(path)
    config = PretrainConfig.from_json(run.config, source=str(run.path / CONFIG_FILE))
    return run, config, load_same_data(config, run.config, run.path)


def read_model(
    path: str | os.PathLike[str], *, step: int | None = None, make_model: MakeModel | None = None
) -> tuple[Any, PretrainConfig, int]:
    """Read the trained model of a run; its data are not needed.

    Args:
        path: the run's folder.
        step: one of its checkpoints; the last by default.
        make_model: the function that made the model, if it is one of a file: the code that a run
            names is not run by itself.

    Returns:
        The model, a Flax NNX module; the configuration of the run, and the step.

    Raises:
        FileNotFoundError: if there is no run, or it has no checkpoint.
        ValueError: if the folder is corrupt, there is no checkpoint of that step, or the model is
            of a file and its function is not given.

    Example:
        >>> read_model("nowhere")
        Traceback (most recent call last):
            ...
        FileNotFoundError: path: expected a run folder, got .../nowhere, which is not a folder
    """
    run = Run.open(path)
    config = PretrainConfig.from_json(run.config, source=str(run.path / CONFIG_FILE))
    structure, shapes, rest = nnx.split(abstract_model(config.model, make_model), nnx.Param, ...)
    checkpoint = run.read_part("params", shapes, step=step)
    expected = "a run with a checkpoint"
    got = f"none in {run.path}"
    require(checkpoint is not None, "path", expected=expected, got=got, error=FileNotFoundError)
    assert checkpoint is not None
    return nnx.merge(structure, checkpoint.state, rest), config, checkpoint.step


def load_same_data(
    config: PretrainConfig, written: Mapping[str, Any], path: str | os.PathLike[str]
) -> Dataset:
    """Load a run's data set again, and check that it is the same.

    Args:
        config: the configuration of the run.
        written: what its `config.json` holds.
        path: its folder, for the message.

    Returns:
        The data set.

    Raises:
        ValueError: if the data are no longer what they were.
        OSError: if they are unreadable.
        ImportError: if an optional package that reads them is not installed.

    Example:
        >>> from lnpjax.pretraining import DataOptions
        >>> data = DataOptions(max_bytes=20_000, num_validation=8)
        >>> dataset = data.load()
        >>> config = PretrainConfig.resolve(dataset, data=data)
        >>> written = {"data": {"fingerprint": dataset.fingerprint}}
        >>> load_same_data(config, written, "runs/mine").num_validation
        8
    """
    dataset = config.data.load()
    expected = written["data"].get("fingerprint")
    require(
        dataset.fingerprint == expected,
        "data",
        expected=f"the data that {path} was started with (fingerprint {expected})",
        got=f"other data in {config.data.source} (fingerprint {dataset.fingerprint})",
    )
    return dataset
