"""Stacks of frames as ``VideoDataset`` cuts them from videos."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from stable_baselines3.common.preprocessing import is_image_space_channels_first


def stack_frames(env: gym.Env, n_stack: int) -> gym.Env:
    """
    The last ``n_stack`` pictures as one observation, oldest first; an episode begins with its first one repeated.

    Where they are grey, tell the model: ``BCVLR(stack_frames(env, n), videos, n_stack=n)``.

    :param env: observes pictures (H, W, C), (C, H, W) or (H, W), uint8
    :return: observes (n_stack * C, H, W)
    """
    space = env.observation_space
    assert isinstance(space, spaces.Box)
    channels_last = len(space.shape) == 3 and not is_image_space_channels_first(space)
    height, width = space.shape[:2] if channels_last else space.shape[-2:]

    def flatten(frames: np.ndarray) -> np.ndarray:
        return (frames.transpose(0, 3, 1, 2) if channels_last else frames).reshape(-1, height, width)

    env = FrameStackObservation(env, n_stack)
    shape = (n_stack * int(np.prod(space.shape)) // (height * width), height, width)
    return TransformObservation(env, flatten, spaces.Box(0, 255, shape, np.uint8))
