"""Gymnasium ids, and what importing the environments prints."""

import importlib.util
import subprocess
import sys

import gymnasium as gym
import pytest

from sb3_bcvlr.envs.registration import DMCONTROL_TASKS, METAWORLD_TASKS, PROCGEN_GAMES, register_envs

needs_procgen = pytest.mark.skipif(importlib.util.find_spec("procgen") is None, reason="procgen-mirror is not installed")


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_every_game_every_task_and_the_toy_world_have_an_id():
    register_envs()
    ids = {f"procgen/{game}-v0" for game in PROCGEN_GAMES} | {"sb3_bcvlr/Foraging-v0"}
    ids |= {f"dmcontrol/{task}-v0" for task in DMCONTROL_TASKS} | {f"metaworld/{task}" for task in METAWORLD_TASKS}
    assert (len(PROCGEN_GAMES), len(METAWORLD_TASKS)) == (16, 50)
    assert ids <= set(gym.registry)
    assert all(gym.spec(env_id).max_episode_steps is None for env_id in ids)


def test_registering_twice_changes_nothing(recwarn):
    register_envs()
    before = dict(gym.registry)
    register_envs()
    assert dict(gym.registry) == before
    assert not recwarn.list


def test_registering_loads_no_simulator():
    code = "from sb3_bcvlr.envs.registration import register_envs; register_envs(); import sys; print(*sys.modules)"
    loaded = set(run_python(code).stdout.split())
    homes = {f"sb3_bcvlr.envs.{suite}" for suite in ("procgen", "foraging", "dmcontrol", "metaworld", "rendering")}
    assert not loaded & {"procgen", "mujoco", "dm_control", "metaworld", *homes}


@pytest.fixture(scope="module")
def game_in_a_fresh_process():
    """Output of a process that imports Stable-Baselines3, starts a game, and lists the modules it has loaded."""
    code = "from sb3_bcvlr.envs.procgen import make_procgen; import stable_baselines3; make_procgen('maze', 1, 0).reset()"
    return run_python(f"{code}; import sys; print(*sys.modules)")


@needs_procgen
def test_importing_procgen_and_stable_baselines3_prints_no_notice(game_in_a_fresh_process):
    assert game_in_a_fresh_process.stderr == ""


@needs_procgen
def test_procgen_runs_without_its_own_python_package(game_in_a_fresh_process):
    assert not set(game_in_a_fresh_process.stdout.split()) & {"procgen", "gym3", "cffi"}
