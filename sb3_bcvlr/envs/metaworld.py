"""
Meta-World's manipulation tasks as pixels: single Gymnasium environments and Stable-Baselines3's ``VecEnv``.

Benchmark: Yu et al. 2019, https://arxiv.org/abs/1910.10897.
"""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_bcvlr.envs.registration import METAWORLD_TASKS
from sb3_bcvlr.envs.rendering import check_task, pixels, require


def _full_name(task: str) -> str:
    """
    :raises ValueError: an unknown task
    """
    name = task if task.endswith("-v3") else f"{task}-v3"
    check_task(name, METAWORLD_TASKS, "Meta-World")
    return name


def make_metaworld(
    task: str,
    n_envs: int = 1,
    seed: int | None = None,
    image_size: int = 64,
    n_stack: int = 3,
    action_repeat: int = 2,
    vec_env_cls: type[VecEnv] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """
    ``n_envs`` copies of a task, each in a ``Monitor``; see ``metaworld_env``, which takes the other parameters.

    :param seed: environment ``i`` starts from ``seed + i``, so that each has goals of its own
    :param vec_env_cls: ``DummyVecEnv`` by default; ``SubprocVecEnv`` gives each environment a process
    """
    name = _full_name(task)  # here, where the user sees the error, and not in a process of its own
    require("metaworld", "metaworld")
    make = partial(
        metaworld_env, name, image_size=image_size, n_stack=n_stack, action_repeat=action_repeat, **kwargs
    )
    return make_vec_env(make, n_envs, seed=seed, vec_env_cls=vec_env_cls)


def metaworld_env(
    task: str,
    seed: int | None = None,
    image_size: int = 64,
    n_stack: int = 3,
    action_repeat: int = 2,
    max_episode_steps: int = 500,
    terminate_on_success: bool = False,
    camera: int | str = "corner2",
    fast_rendering: bool = True,
    render_mode: str = "rgb_array",
) -> gym.Env:
    """
    One task: observations (3 * n_stack, image_size, image_size) uint8, oldest picture first, actions float32 in [-1, 1].

    Each episode draws a goal. Rewards of repeated actions are summed. ``info["success"]`` tells whether the task is solved
    now, ``info["is_success"]`` whether it has been at any simulated step of the episode: Stable-Baselines3 logs the latter.
    ``info["state"]`` (39,) is what the scripted policies of ``metaworld.policies`` take; ``env.unwrapped.model`` and
    ``.data`` are the simulation.

    :param task: "drawer-open" or "drawer-open-v3", one of ``METAWORLD_TASKS``
    :param seed: of the first goal and those after it, as ``reset(seed=...)``
    :param action_repeat: simulated steps of each action, none of which but the last is rendered
    :param max_episode_steps: simulated steps after which an episode is truncated
    :param terminate_on_success: end an episode at the first success
    :param camera: number or name; those that hang upside down (corner, corner2, ...) are set upright
    :param fast_rendering: no shadows, no reflections, no antialiasing: several times faster, and another picture
    :param render_mode: "rgb_array", the only one there is

    :raises ImportError: metaworld or an OpenGL library is missing
    :raises ValueError: an unknown task or camera, or a number below 1
    """
    name = _full_name(task)
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps is {max_episode_steps}, expected 1 or more")
    env_class = require("metaworld", "metaworld").ALL_V3_ENVIRONMENTS[name]
    env = env_class(render_mode=render_mode)
    env.max_path_length = max_episode_steps
    # Meta-World hides the goal and freezes it until a benchmark hands out one of 50. Here the environment draws it, from
    # the same range and from its own generator, and its state shows it.
    env._partially_observable = False
    env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
    del env.sawyer_observation_space  # cached; it depends on whether the goal is hidden
    env.observation_space = env.sawyer_observation_space
    if seed is not None:
        env.seed(seed)
    return pixels(
        _Episodes(env, terminate_on_success),
        lambda: (env.model, env.data),
        camera,
        image_size,
        n_stack,
        action_repeat,
        fast_rendering,
    )


class _Episodes(gym.Wrapper):
    """Meta-World's ``reset`` takes no seed, and its ``success`` forgets what has been."""

    def __init__(self, env: gym.Env, terminate_on_success: bool):
        super().__init__(env)
        self.terminate_on_success = terminate_on_success

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self.env.seed(seed)  # type: ignore[attr-defined]
        self._solved = False
        return self.env.reset(options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(action)
        success = bool(info["success"])
        self._solved |= success
        terminated |= self.terminate_on_success and success
        return state, float(reward), terminated, truncated, {**info, "success": success, "is_success": self._solved}
