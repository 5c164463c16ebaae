"""The folder of a pre-training run: how it starts, and how it is opened again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from lnpjax._base.checks import require
from lnpjax._version import __version__
from lnpjax.data import Dataset
from lnpjax.pretraining.config import PretrainConfig
from lnpjax.runs import Run


def create_run(config: PretrainConfig, dataset: Dataset, path: str | os.PathLike[str]) -> Run:
    """Start the folder of a run.

    Args:
        config: the configuration.
        dataset: the data set that `config.data` loads.
        path: a new or empty folder.

    Returns:
        The run, whose `config.json` holds the configuration and what identifies the data.

    Raises:
        FileExistsError: if the folder is not empty.
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
        OSError, ImportError: if the run or its data cannot be read.
    """
    run = Run.open(path)
    config = PretrainConfig.from_json(run.config, source=str(run.path / "config.json"))
    return run, config, load_same_data(config, run.config, run.path)


def load_same_data(
    config: PretrainConfig, written: Mapping[str, Any], path: str | os.PathLike[str]
) -> Dataset:
    """Load a run's data set again, and make sure that it is the same.

    Args:
        config: the configuration of the run.
        written: what its `config.json` holds.
        path: its folder, for the message.

    Returns:
        The data set.

    Raises:
        ValueError: if the data are no longer what they were.
        OSError, ImportError: if they cannot be read.
    """
    dataset = config.data.load()
    expected = written["data"].get("fingerprint")
    require(
        dataset.fingerprint == expected,
        "data",
        expected=f"the data that {path} was started with (fingerprint {expected})",
        got=f"other data in {config.data.data} (fingerprint {dataset.fingerprint})",
    )
    return dataset
