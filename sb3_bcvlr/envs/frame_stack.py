"""Pictures as ``VideoDataset`` makes them of videos: stacked, grey."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv

from sb3_bcvlr.common.video_dataset import to_grey


def stack_frames(env: gym.Env, n_stack: int) -> gym.Env:
    """
    The last ``n_stack`` pictures as one observation, oldest first; an episode begins with its first one repeated.

    Where they are grey, tell the model: ``BCVLR(stack_frames(env, n), videos, n_stack=n)``.

    :param env: observes pictures (H, W, C), (C, H, W) or (H, W), uint8; of several in one, it wraps each:
        ``make_vec_env(id, n_envs, wrapper_class=stack_frames, wrapper_kwargs={"n_stack": n})``
    :return: observes (n_stack * C, H, W)
    :raises ValueError: it observes something else, or is a vector
    """
    space = _picture_space(env, 2, 3)
    channels_last = len(space.shape) == 3 and not is_image_space_channels_first(space)
    height, width = space.shape[:2] if channels_last else space.shape[-2:]

    def flatten(frames: np.ndarray) -> np.ndarray:
        return (frames.transpose(0, 3, 1, 2) if channels_last else frames).reshape(-1, height, width)

    env = TransformObservation(env, np.array, space)  # copies, since an environment may draw each picture over the one before
    env = FrameStackObservation(env, n_stack)
    shape = (n_stack * int(np.prod(space.shape)) // (height * width), height, width)
    return TransformObservation(env, flatten, spaces.Box(0, 255, shape, np.uint8))


def grayscale(env: gym.Env) -> gym.Env:
    """
    Pictures in the grey of ``VideoDataset(..., grayscale=True)``, which is OpenCV's and so that of SB3's ``WarpFrame``;
    ``gymnasium.wrappers.GrayscaleObservation`` weighs colors otherwise, so that a policy would see other pictures than it
    learned from.

    :param env: observes pictures (H, W, 3) uint8; of several in one, it wraps each, as ``stack_frames`` does
    :return: observes (H, W, 1)
    :raises ValueError: it observes something else, or is a vector
    """
    space = _picture_space(env, 3)
    if space.shape[-1] != 3:
        raise ValueError(f"The environment observes {space}, expected pictures of shape (H, W, 3).")
    return TransformObservation(env, to_grey, spaces.Box(0, 255, (*space.shape[:2], 1), np.uint8))


def _picture_space(env: gym.Env, *n_axes: int) -> spaces.Box:
    if isinstance(env, VecEnv | VectorEnv):
        raise ValueError(
            f"The environment is a {type(env).__name__}, expected a single one: wrap each of them, as "
            "stable_baselines3.common.env_util.make_vec_env(id, n_envs, wrapper_class=..., wrapper_kwargs=...) does."
        )
    space = env.observation_space
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in n_axes:
        raise ValueError(
            f"The environment observes {space}, expected pictures: a Box of uint8 from 0 to 255 with "
            f"{' or '.join(map(str, n_axes))} axes."
        )
    return space
