"""What ``train.py`` makes of a preset and of changes to it."""

import argparse

import pytest
from train import known_task, model_arguments

from sb3_bcvlr import hyperparams


@pytest.mark.parametrize(
    ("task", "preset", "expected"),
    [
        ("metaworld/reach", "default", {}),
        ("metaworld/reach", "small", hyperparams.get("bcvlr", "metaworld_small")),
        ("dmcontrol/reacher_hard", "paper", hyperparams.get("bcvlr", "dmcontrol", "reacher_hard")),
        ("foraging/foraging", "default", hyperparams.get("bcvlr", "foraging")),
    ],
)
def test_a_preset_is_the_constructors_or_from_hyperparams(task, preset, expected):
    assert repr(model_arguments(task, preset, {})) == repr(expected)  # SB3's schedules know no ==


def test_changes_lie_over_a_preset_also_inside():
    changed = model_arguments("procgen/maze", "paper", {"tau": 0.5, "policy_kwargs": {"world_model_channels": 7}})
    paper = hyperparams.get("bcvlr", "procgen")
    assert changed == {**paper, "tau": 0.5, "policy_kwargs": {**paper["policy_kwargs"], "world_model_channels": 7}}


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_changes_themselves_stay_apart_from_what_is_made_of_them(preset):
    changes = {"tau": 0.5}
    arguments = model_arguments("procgen/maze", preset, changes)
    arguments["batch_size"] = 7
    assert changes == {"tau": 0.5}


def test_a_preset_that_a_suite_does_not_have_is_told_in_a_line():
    with pytest.raises(SystemExit, match="procgen has no preset 'small': leave --preset out"):
        model_arguments("procgen/maze", "small", {})


@pytest.mark.parametrize(
    "task", ["procgen/fruitbot", "dmcontrol/reacher_hard", "metaworld/reach", "foraging", "foraging/foraging"]
)
def test_a_task_is_known_by_its_suite(task):
    assert known_task(task) == task


@pytest.mark.parametrize("task", ["procgen/fruitbot-v0", "dmcontrol/reacher_hard-v0", "metaworld/reach-v3"])
def test_a_task_is_known_as_gymnasium_calls_it(task):
    assert known_task(task) == task[:-3]


@pytest.mark.parametrize(("task", "names"), [("procgen/frutbot", "fruitbot"), ("dmcontrol/reacher-hard", "reacher_hard")])
def test_a_misspelt_task_is_told_with_what_is_like_it(task, names):
    with pytest.raises(argparse.ArgumentTypeError, match=f"has no task '{task.split('/')[1]}'; did you mean {names}\\?$"):
        known_task(task)


@pytest.mark.parametrize("task", ["forging", "procgen", "procgen/", "atari/pong"])
def test_a_task_of_no_suite_is_told_in_a_line(task):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{task}' is no suite/task with a suite of procgen, "):
        known_task(task)
