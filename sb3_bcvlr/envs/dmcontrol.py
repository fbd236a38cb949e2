"""
DeepMind Control as pixels, through Shimmy: single Gymnasium environments and Stable-Baselines3's ``VecEnv``.

Suite: Tassa et al. 2018, https://arxiv.org/abs/1801.00690.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_bcvlr.common.checks import check_task, check_whole
from sb3_bcvlr.envs.registration import DMCONTROL_TASKS
from sb3_bcvlr.envs.rendering import check_render_mode, list_cameras, pixels, require


def make_dmcontrol(
    task: str,
    n_envs: int = 1,
    seed: int | None = None,
    image_size: int = 64,
    n_stack: int = 3,
    action_repeat: int = 2,
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """
    ``n_envs`` copies of a task, each in a ``Monitor``; see ``dmcontrol_env``, which takes the other parameters.

    :param seed: environment ``i`` starts from ``seed + i``
    :param vec_env_cls: ``DummyVecEnv`` by default; ``SubprocVecEnv`` gives each environment a process
    """
    check_task(task, DMCONTROL_TASKS, "DeepMind Control")  # here, where the user sees it, and not in a process of its own
    check_whole(n_envs=n_envs)
    require("dm_control", "dmc")
    make = partial(dmcontrol_env, task, image_size=image_size, n_stack=n_stack, action_repeat=action_repeat, **kwargs)
    return make_vec_env(make, n_envs, seed=seed, vec_env_cls=vec_env_cls)


def dmcontrol_env(
    task: str,
    seed: int | None = None,
    image_size: int = 64,
    n_stack: int = 3,
    action_repeat: int = 2,
    max_episode_steps: int | None = None,
    camera: int | str | Sequence[int | str] | None = None,
    fast_rendering: bool = True,
    render_mode: str = "rgb_array",
) -> gym.Env:
    """
    One task: observations (3 * n_stack, image_size, n_cameras * image_size) uint8, oldest first, actions float32 in [-1, 1].

    Rewards of repeated actions are summed. Episodes are truncated after 1000 simulated steps, 500 actions (Jaco: 250, 125).
    ``info["state"]`` holds the suite's own observation, a dict of arrays; ``env.unwrapped.physics`` is the simulation, for
    experts that plan.

    :param task: "<domain>_<task>", one of ``DMCONTROL_TASKS``: the suite, "cheetah_run_backward" and "jaco_reach_<corner>"
    :param seed: of the first episode and those after it, as ``reset(seed=...)``
    :param action_repeat: simulated steps of each action, none of which but the last is rendered
    :param max_episode_steps: simulated steps after which an episode is truncated, where this is sooner
    :param camera: number or name; by default the suite's first, for Jaco "front_close". Several stand side by side
    :param fast_rendering: no shadows, no reflections, no antialiasing: several times faster, and another picture
    :param render_mode: "rgb_array", the only one there is

    :raises ImportError: dm_control or an OpenGL library is missing
    :raises ValueError: an unknown task, camera or render mode, or a number that is not whole or below 1
    """
    check_task(task, DMCONTROL_TASKS, "DeepMind Control")
    check_render_mode(render_mode)
    suite = require("dm_control.suite", "dmc")
    shimmy = require("shimmy.dm_control_compatibility", "dmc")
    tasks = require("sb3_bcvlr.envs.dmcontrol_tasks", "dmc")
    default_camera: int | str = 0
    if task == "cheetah_run_backward":
        dm_env = tasks.cheetah_run_backward(seed)
    elif task.startswith("jaco_reach_"):
        dm_env = tasks.jaco_reach(task.removeprefix("jaco_reach_"), seed)
        default_camera = "front_close"
    else:
        names = {f"{domain}_{name}": (domain, name) for domain, name in suite.ALL_TASKS}
        domain, name = names[task]
        random = np.random.RandomState(0 if domain == "lqr" else seed)  # lqr draws the springs of its one world, too
        dm_env = suite.load(domain, name, task_kwargs={"random": random})
        if domain == "lqr":
            random.seed(seed)
    env = shimmy.DmControlCompatibilityV0(dm_env, render_mode=render_mode)
    if max_episode_steps is not None:
        check_whole(max_episode_steps=max_episode_steps)
        env = TimeLimit(env, max_episode_steps)
    return pixels(
        env,
        lambda: (dm_env.physics.model.ptr, dm_env.physics.data.ptr),
        list_cameras(default_camera if camera is None else camera),
        image_size,
        n_stack,
        action_repeat,
        fast_rendering,
    )
