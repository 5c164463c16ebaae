"""What a run does about bits that flipped, rows that others changed, links, and odd folders."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_run import CONFIG, outcome, toy_loop, toy_state, toy_step

from lnpjax.runs import Run, _checkpoints
from lnpjax.runs._lock import refuse_links_in

NUM_STEPS, SAVE_EVERY = 9, 3


def states() -> dict[int, dict[str, Any]]:
    """The state after every step."""
    state, by_step = toy_state(), {}
    for step in range(NUM_STEPS):
        state = toy_step(state)
        by_step[step + 1] = state
    return by_step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    with Run.create(path, CONFIG) as run:
        toy_loop(run, NUM_STEPS, SAVE_EVERY)
    return path


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def files(path: Path) -> dict[str, bytes]:
    """What is in a run, except who holds its lock."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


# --- bits that flip -------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_checkpoint_is_trusted(whole: Path, tmp_path: Path) -> None:
    generator, expected, fell_back = random.Random(1), states(), 0
    last = whole / "checkpoints" / f"{NUM_STEPS:010d}"
    named = [file.relative_to(whole) for file in sorted(last.rglob("*")) if file.is_file()]
    for number, name in enumerate(file for file in named for _ in range(3)):
        path = shutil.copytree(whole, tmp_path / str(number))
        flip(path / name, generator.randrange(8 * (path / name).stat().st_size))
        with Run.open(path) as run, pytest.MonkeyPatch.context() as patch:
            said: list[str] = []
            patch.setattr("warnings.warn", lambda text, said=said, **_: said.append(text))
            restored = run.restore(toy_state())
        assert restored is not None
        assert restored.step in (NUM_STEPS, NUM_STEPS - SAVE_EVERY), name
        for leaf in ("key", "w", "count"):
            np.testing.assert_array_equal(restored.state[leaf], expected[restored.step][leaf])
        assert bool(said) == (restored.step < NUM_STEPS)
        fell_back += restored.step < NUM_STEPS
    assert fell_back > 5


def test_a_run_whose_last_checkpoint_is_damaged_ends_as_one_that_was_not(
    whole: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    flip(path / "checkpoints" / f"{NUM_STEPS:010d}" / "checkpoint.json", 300)
    with (
        Run.open(path) as run,
        pytest.warns(UserWarning, match=r"expected .*; going on from checkpoint 6"),
    ):
        toy_loop(run, NUM_STEPS, SAVE_EVERY)
    assert outcome(path) == outcome(whole)
    assert (path / "checkpoints" / f"{NUM_STEPS:010d}.damaged").is_dir()
    assert (path / "cut.jsonl").read_bytes() in (whole / "metrics.jsonl").read_bytes()


def test_arrays_are_compared_with_what_was_saved(whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    checkpoints = path / "checkpoints"
    shutil.rmtree(checkpoints / f"{NUM_STEPS:010d}" / "arrays")
    shutil.copytree(
        checkpoints / f"{NUM_STEPS - SAVE_EVERY:010d}" / "arrays",
        checkpoints / f"{NUM_STEPS:010d}" / "arrays",
    )
    with Run.open(path) as run:
        with pytest.raises(ValueError, match="expected the arrays that were saved there"):
            run.read_checkpoint(toy_state())
        with pytest.warns(UserWarning, match="going on from checkpoint 6"):
            assert run.restore(toy_state()).step == NUM_STEPS - SAVE_EVERY


def without_checksums(path: Path) -> None:
    """Make a run what version 0.1.0 would have left."""
    for file in path.glob("checkpoints/*/checkpoint.json"):
        metadata = json.loads(file.read_text())
        del metadata["sha256"], metadata["metrics_sha256"], metadata["arrays_sha256"]
        file.write_text(json.dumps(metadata))


def test_a_run_of_an_earlier_version_resumes_without_a_word(
    whole: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    without_checksums(path)
    with Run.open(path) as run:
        toy_loop(run, NUM_STEPS, SAVE_EVERY)
    assert outcome(path) == outcome(whole)
    assert [str(one.message) for one in recwarn if one.category is UserWarning] == []


# --- rows that others changed ---------------------------------------------------------------------


def change_rows(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = path / "metrics.jsonl"
        file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))

    return apply


def set_metrics_bytes(path: Path) -> None:
    file = path / "checkpoints" / f"{NUM_STEPS:010d}" / "checkpoint.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps(metadata | {"metrics_bytes": metadata["metrics_bytes"] - 70}))


CHANGES: dict[str, Callable[[Path], None]] = {
    "a row twice": change_rows(lambda rows: [*rows[:2], rows[1], *rows[2:]]),
    "a row less": change_rows(lambda rows: [rows[0], *rows[2:]]),
    "CRLF": change_rows(lambda rows: [row.replace(b"\n", b"\r\n") for row in rows]),
    "another number": change_rows(lambda rows: [rows[0].replace(b"0", b"1", 1), *rows[1:]]),
    "no last newline": change_rows(lambda rows: [*rows[:-1], rows[-1][:-1]]),
    "fewer bytes": set_metrics_bytes,
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_rows_are_never_cut_in_the_middle(name: str, whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    CHANGES[name](path)
    before = files(path)
    with Run.open(path) as run:
        if name in ("no last newline", "fewer bytes"):
            with pytest.warns(UserWarning, match="going on from checkpoint 6"):
                toy_loop(run, NUM_STEPS, SAVE_EVERY)
            assert outcome(path) == outcome(whole)
        else:
            with pytest.raises(ValueError, match=r"metrics\.jsonl: expected the"):
                run.restore(toy_state())
            assert files(path) == before


def test_rows_changed_after_the_checkpoint_before_are_made_again(
    whole: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    change_rows(lambda rows: [*rows[:-1], rows[-2], rows[-1]])(path)
    with Run.open(path) as run, pytest.warns(UserWarning, match="going on from checkpoint 6"):
        toy_loop(run, NUM_STEPS, SAVE_EVERY)
    assert outcome(path) == outcome(whole)


def test_rows_of_an_earlier_version_are_not_cut_within_a_line(whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    without_checksums(path)
    change_rows(lambda rows: [rows[0], b'{"kind": "x"}\n', *rows[1:]])(path)
    before = files(path)
    with Run.open(path) as run, pytest.raises(ValueError, match="put a copy of them back"):
        run.restore(toy_state())
    assert files(path) == before


def test_what_the_caller_refuses_changes_nothing(whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    with Run.open(path) as run:
        run.append({"kind": "train", "step": NUM_STEPS})
    before = files(path)

    def refuse(checkpoint: Any) -> None:
        raise ValueError(f"not {checkpoint.step}")

    with Run.open(path) as run, pytest.raises(ValueError, match="not 9"):
        run.restore(toy_state(), check=refuse)
    assert files(path) == before


# --- odd folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr=[1e-3]", "any**[a-z]?", "{a,b}"])
def test_a_folder_of_any_name_holds_checkpoints(name: str, tmp_path: Path) -> None:
    with Run.create(tmp_path / name, CONFIG) as run:
        toy_loop(run, 2, 1)
    with Run.open(tmp_path / name) as run:
        np.testing.assert_array_equal(run.restore(toy_state()).state["w"], states()[2]["w"])


def test_a_checkpoint_that_cannot_be_read_back_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        run.save(1, toy_state())
        before = files(tmp_path)
        real = _checkpoints.import_extra("orbax.checkpoint", extra="run", purpose="this")
        monkeypatch.setattr(
            real.Checkpointer, "restore", lambda *_, **__: dict.fromkeys(toy_state(), np.ones(1))
        )
        with pytest.raises(OSError, match="expected what was stored there"):
            run.save(2, toy_step(toy_state()))
        assert run.checkpoint_steps() == [1]
        assert files(tmp_path) == before


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "sessions.jsonl", "cut.jsonl"])
def test_a_link_in_a_run_is_not_followed(name: str, whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    elsewhere = tmp_path / "thesis.tex"
    elsewhere.write_bytes((whole / "metrics.jsonl").read_bytes())
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(elsewhere)
    with Run.open(path) as run:
        for write in (
            lambda: run.restore(toy_state()),
            lambda: run.append({"kind": "train"}),
            lambda: run.append_session({"kind": "session"}),
        ):
            with pytest.raises(OSError, match=rf"{name}: expected a file or folder of its own"):
                write()
    assert elsewhere.read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["spectra", "checkpoints", "figures"])
def test_a_linked_folder_in_a_run_is_not_written_to(name: str, whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(path / name, ignore_errors=True)
    (path / name).symlink_to(elsewhere)
    with Run.open(path) as run, pytest.raises(OSError, match="got a link"):
        run.append({"kind": "train"})
    with Run.open(path) as run:
        writes = {
            "spectra": lambda: run.save_spectrum("a"),
            "figures": lambda: run.figure_path("a"),
        }
        with pytest.raises(OSError, match="got a link"):
            writes.get(name, lambda: run.save(NUM_STEPS, toy_state()))()
    assert list(elsewhere.iterdir()) == []


def test_a_link_to_a_figure_is_not_drawn_through(whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    (path / "figures").mkdir()
    (path / "figures" / "components.png").symlink_to(tmp_path / "thesis.png")
    with pytest.raises(OSError, match=r"components\.png: expected a file .* got a link"):
        Run.open(path).figure_path("components")


def test_removing_the_lock_lets_nobody_in(tmp_path: Path) -> None:
    with Run.create(tmp_path, CONFIG) as run:
        os.remove(tmp_path / ".lock")
        with pytest.raises(RuntimeError, match="expected a folder that nothing else writes"):
            Run.open(tmp_path).append({"kind": "train", "step": 1})
        run.append({"kind": "train", "step": 0})
    with Run.open(tmp_path) as later:
        later.append({"kind": "train", "step": 1})


@pytest.mark.parametrize("linked", ["shells", "shells/profile.png"])
def test_what_commands_write_into_a_run_follows_no_link(linked: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "shells"
    folder.parent.mkdir()
    refuse_links_in(folder)  # not there yet
    (tmp_path / "run" / linked).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=f"{linked}: expected a file or folder of its own"):
        refuse_links_in(folder)
