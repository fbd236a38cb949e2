"""
Meta-World's manipulation tasks as pixels: single Gymnasium environments and Stable-Baselines3's ``VecEnv``.

Benchmark: Yu et al. 2019, https://arxiv.org/abs/1910.10897.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_bcvlr.common.checks import check_task, check_whole
from sb3_bcvlr.envs.registration import METAWORLD_TASKS
from sb3_bcvlr.envs.rendering import check_render_mode, join_names, list_cameras, pixels, require

# Our own views are cameras of Meta-World, moved: at 64x64 a goal seen from theirs is one or two pixels. Meters, quaternions.
OWN_CAMERAS: dict[int | str, tuple[str, dict[str, tuple[float, ...]]]] = {
    "close": ("corner2", {"cam_pos": (0.75, 0.075, 0.7)}),
    # Looks along -x, at where the hand works; like corner3 it hangs upside down.
    "side": ("corner3", {"cam_pos": (0.9, 0.75, 0.2), "cam_quat": (0.5, -0.5, 0.5, -0.5)}),
}


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
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """
    ``n_envs`` copies of a task, each in a ``Monitor``; see ``metaworld_env``, which takes the other parameters.

    :param seed: environment ``i`` starts from ``seed + i``, so that each has goals of its own
    :param vec_env_cls: ``DummyVecEnv`` by default; ``SubprocVecEnv`` gives each environment a process
    """
    name = _full_name(task)  # here, where the user sees the error, and not in a process of its own
    check_whole(n_envs=n_envs)
    require("metaworld", "metaworld")
    make = partial(metaworld_env, name, image_size=image_size, n_stack=n_stack, action_repeat=action_repeat, **kwargs)
    return make_vec_env(make, n_envs, seed=seed, vec_env_cls=vec_env_cls)


def metaworld_env(
    task: str,
    seed: int | None = None,
    image_size: int = 64,
    n_stack: int = 3,
    action_repeat: int = 2,
    max_episode_steps: int = 500,
    terminate_on_success: bool = False,
    camera: int | str | Sequence[int | str] = "close",
    fast_rendering: bool = True,
    render_mode: str = "rgb_array",
) -> gym.Env:
    """
    One task: observations (3 * n_stack, image_size, n_cameras * image_size) uint8, oldest first, actions float32 in [-1, 1].

    Each episode draws a goal. Rewards of repeated actions are summed. ``info["success"]`` tells whether the task is solved
    now, ``info["is_success"]`` whether it has been at any simulated step of the episode: Stable-Baselines3 logs the latter.
    ``info["state"]`` (39,) is what the scripted policies of ``metaworld.policies`` take; ``env.unwrapped.model`` and
    ``.data`` are the simulation, ``.sawyer`` is Meta-World's own environment.

    :param task: "drawer-open" or "drawer-open-v3", one of ``METAWORLD_TASKS``
    :param seed: of the first goal and those after it, as ``reset(seed=...)``
    :param action_repeat: simulated steps of each action, none of which but the last is rendered
    :param max_episode_steps: simulated steps after which an episode is truncated
    :param terminate_on_success: end an episode at the first success
    :param camera: "close", "side" (of y and z), or number or name of one of Meta-World's own; pictures of those that hang
        upside down (corner, corner2, ...) are turned. Several, as in ["close", "topview"] or "close+topview", stand side by
        side: no single one shows what moves along its line of sight
    :param fast_rendering: no shadows, no reflections, no antialiasing: several times faster, and another picture
    :param render_mode: "rgb_array", the only one there is

    :raises ImportError: metaworld or an OpenGL library is missing
    :raises ValueError: an unknown task or camera, an unknown render mode, cameras that exclude each other, or a number that is
        not whole or below 1
    """
    name = _full_name(task)
    check_whole(max_episode_steps=max_episode_steps)
    check_render_mode(render_mode)
    sawyer_class = require("metaworld", "metaworld").ALL_V3_ENVIRONMENTS[name]
    sawyer = sawyer_class(render_mode=render_mode)
    sawyer.max_path_length = max_episode_steps
    cameras = list_cameras(camera)
    for own in OWN_CAMERAS.keys() & set(cameras):
        moved, changes = OWN_CAMERAS[own]
        number = sawyer.model.camera(moved).id
        if {moved, number} & set(cameras):
            raise ValueError(f'The cameras are {cameras}, but "{own}" is {moved}, moved: choose one of the two.')
        for attribute, value in changes.items():
            getattr(sawyer.model, attribute)[number] = value
    env = pixels(
        MetaWorldEnv(sawyer, seed, terminate_on_success),
        lambda: (sawyer.model, sawyer.data),
        [OWN_CAMERAS[camera][0] if camera in OWN_CAMERAS else camera for camera in cameras],
        image_size,
        n_stack,
        action_repeat,
        fast_rendering,
    )
    env.get_wrapper_attr("rendering_settings")["camera"] = join_names(cameras)
    return env


class MetaWorldEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    A task of Meta-World that needs no benchmark: its goals follow the seed, and a success is remembered.

    Meta-World's own environments hide the goal and wait until a benchmark hands out one of 50. Here they draw it themselves,
    from the same range and from their own generator, and the state shows it.

    :param sawyer: an environment of ``metaworld.ALL_V3_ENVIRONMENTS``; from here on it belongs to this one
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, sawyer: Any, seed: int | None = None, terminate_on_success: bool = False):
        self.sawyer = sawyer
        self.model, self.data, self.dt = sawyer.model, sawyer.data, sawyer.dt
        self.render_mode = sawyer.render_mode
        self.terminate_on_success = terminate_on_success
        sawyer._set_task_called = sawyer.seeded_rand_vec = True
        sawyer._partially_observable = False
        del sawyer.sawyer_observation_space  # cached, with the goal hidden
        self.observation_space, self.action_space = sawyer.sawyer_observation_space, sawyer.action_space
        if seed is not None:
            sawyer.seed(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        import mujoco

        super().reset(seed=seed)
        if seed is not None:
            self.sawyer.seed(seed)
        self._solved = False
        self.sawyer._freeze_rand_vec = False
        self.sawyer.reset()  # draws the goal; objects partly stand where they did in the last episode
        self.sawyer._freeze_rand_vec = True
        state, info = self.sawyer.reset()
        mujoco.mj_forward(self.model, self.data)  # a picture shows positions as they were last computed
        return state, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        state, reward, _, truncated, info = self.sawyer.step(action)
        success = bool(info["success"])
        self._solved |= success
        terminated = success and self.terminate_on_success
        return state, float(reward), terminated, truncated, {**info, "success": success, "is_success": self._solved}

    def close(self) -> None:
        self.sawyer.close()
