"""A run trains to its end whatever becomes of its output."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import arguments, rows_but_distributions

from lnpjax import cli
from lnpjax.commands import train
from lnpjax.commands._exit import Exit, explain
from lnpjax.runs import Run


class Broken(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError("nobody reads this")

    flush = write  # type: ignore[assignment]


class Failing:
    """A service that is down."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def write(self, step: int, scalars: Any) -> None:
        raise ConnectionError("service is down")

    def close(self) -> None:
        pass


def test_a_run_goes_on_where_nobody_reads_and_a_writer_fails(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = arguments(tiny_run.parent / "counting.txt", distribution=0, out=run)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken())
        patch.setattr(sys, "stderr", Broken())
        patch.setattr(train, "TensorBoardWriter", Failing)
        assert cli.main([*command, "--tensorboard"]) == Exit.DONE
    assert (run / "metrics.jsonl").read_text().splitlines() == rows_but_distributions(tiny_run)
    assert Run.open(run).checkpoint_steps() == [4, 8, 12]


def test_a_table_is_printed_in_ascii(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    octets = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(octets, "ascii"))
        assert cli.main(["train", "--resume", str(run)]) == Exit.DONE
        assert b"chi_pos" in octets.getvalue()


def test_other_commands_end_quietly_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken())
        assert cli.main(["--version"]) == 141
        assert explain(BrokenPipeError()) == 141
