"""A run goes on only where its numbers stay what they were, and a refusal leaves it as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from lnpjax import cli
from lnpjax._base.reporting import Reporter
from lnpjax.commands._exit import Exit
from lnpjax.pretraining import loop
from lnpjax.pretraining.environment import check_environment, environment
from lnpjax.runs import Run


class Ear(Reporter):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)

    warn = note


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


@pytest.fixture
def unfinished(tiny_run: Path, tmp_path: Path) -> Path:
    """A run that was killed after its checkpoint of eight steps, at the end of the twelfth."""
    path = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(path / "checkpoints" / "0000000012")
    return path


def resume(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = files(path)
    assert cli.main(["train", "--resume", str(path)]) == Exit.REFUSED
    assert files(path) == before
    return capsys.readouterr().err.splitlines()[-1]


def test_an_edited_configuration_is_refused_and_cuts_nothing(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((unfinished / "config.json").read_text())
    config["training"]["learning_rate"] = 0.5
    (unfinished / "config.json").write_text(json.dumps(config))
    assert "where training/learning_rate is 0.005, got 0.5" in resume(unfinished, capsys)


def test_another_release_of_jax_is_refused_and_cuts_nothing(
    unfinished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "environment", lambda: environment() | {"jax": "0.99.0"})
    message = resume(unfinished, capsys)
    assert f"expected jax {jax.__version__}, with which it was made (--force goes on" in message
    assert message.endswith("got 0.99.0")


def test_double_precision_is_refused_and_cuts_nothing(
    unfinished: Path, capsys: pytest.CaptureFixture[str], x64: None
) -> None:
    message = resume(unfinished, capsys)
    assert "jax_enable_x64 False" in message or "abstract_state" in message


def test_a_finished_run_records_where_it_was_made(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    (session,) = run.sessions()
    assert session["environment"] == environment()
    text = (tiny_run / "checkpoints" / "0000000012" / "checkpoint.json").read_text()
    assert json.loads(text)["extra"]["environment"] == environment()


def check(changes: dict[str, Any], *, force: bool = False) -> list[str]:
    ear = Ear()
    present = environment() | changes
    check_environment(environment(), present, "runs/a", reporter=ear, force=force)
    return ear.heard


def test_what_differs_is_said_and_what_changes_numbers_is_refused() -> None:
    assert check({}) == []
    assert check({"python": "4.0"})[0].endswith("is 4.0")
    for name in environment().keys() - {"python", "XLA_FLAGS"}:
        with pytest.raises(ValueError, match=rf"runs/a: expected {name} .*got another"):
            check({name: "another"})
        (warning,) = check({name: "another"}, force=True)
        assert f"{name} was" in warning
    check_environment(None, environment(), "runs/a", reporter=Ear(), force=False)
