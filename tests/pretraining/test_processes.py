from __future__ import annotations

from typing import Any

import jax
import pytest

from lnpjax.pretraining.processes import ANSWER_AFTER, Group, ProcessOptions, StopTogether, joined
from lnpjax.sharding import make_mesh

HERE: dict[str, Any] = {"coordinator": "127.0.0.1:1234", "processes": 2, "process": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": None}, "coordinator: expected coordinator, processes and process together"),
        (
            {"coordinator": None, "processes": None},
            "process: expected .* no coordinator and no pro",
        ),
        ({"coordinator": "127.0.0.1"}, "coordinator: expected HOST:PORT, got '127.0.0.1'"),
        ({"processes": 0}, "processes: expected an integer >= 1, got 0"),
        ({"process": 2}, "process: expected a number from 0 to 1, got 2"),
        ({"process": -1}, "process: expected a number from 0 to 1, got -1"),
        ({"distributed": True}, "distributed: expected no coordinator with it, got both"),
    ],
)
def test_options_that_do_not_say_where_the_others_are(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ProcessOptions(**(HERE | changes)).check()


def test_options_that_do() -> None:
    for options in (ProcessOptions(**HERE), ProcessOptions(distributed=True), ProcessOptions()):
        options.check()
    assert [ProcessOptions(**HERE).several, ProcessOptions().several] == [True, False]


def test_one_process_is_a_group_that_hides_no_error() -> None:
    with joined(ProcessOptions()) as group:
        assert group.is_first
        assert group.from_first({"a": 1}) == {"a": 1}
        with pytest.raises(KeyError, match="mine"):
            group.together(lambda: dict[str, int]()["mine"])
    assert not Group(index=1, count=2).is_first


def test_a_wish_to_stop_takes_effect_some_questions_later() -> None:
    wishes = iter([False, True, False, *[False] * ANSWER_AFTER, False])
    should_stop = StopTogether(lambda: next(wishes), make_mesh("data=1", devices=jax.devices()[:1]))
    answers = [should_stop() for _ in range(ANSWER_AFTER + 4)]
    assert answers.index(True) == 1 + ANSWER_AFTER
    assert sum(answers) == 1
