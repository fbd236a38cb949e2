"""Stacks, and grey, are what ``VideoDataset`` makes of the same frames."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import GrayscaleObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import N_ACTIONS, SIZE, ActionPictureEnv

from sb3_bcvlr import VideoDataset
from sb3_bcvlr.envs import grayscale, stack_frames


def episode(env, n_stack):
    """An episode (T, n_stack * C, H, W)."""
    stacked = stack_frames(env, n_stack)
    stacks = [stacked.reset()[0]]
    for step in range(5):
        stacks.append(stacked.step(step % N_ACTIONS)[0])
    assert all(stacked.observation_space.contains(stack) for stack in stacks)
    return np.stack(stacks)


@pytest.mark.parametrize("channels_first", [False, True])
def test_they_are_those_of_the_videos(channels_first):
    stacks = episode(ActionPictureEnv(channels_first=channels_first), 3)
    video = stacks[:, -3:].transpose(0, 2, 3, 1)
    videos = VideoDataset(np.ascontiguousarray(video), n_history=1, n_stack=3)
    windows = videos.windows(np.arange(len(videos))).frames
    assert np.array_equal(windows[:, 0], stacks[:-1]) and np.array_equal(windows[:, 1], stacks[1:])
    assert len(np.unique(stacks.reshape(len(stacks), -1), axis=0)) > 1


def test_an_environment_may_draw_each_picture_over_the_one_before():
    class Overdrawing(ActionPictureEnv):
        canvas = np.zeros((SIZE, SIZE, 3), np.uint8)

        def _observation(self, action):
            self.canvas[:] = self.n_steps
            return self.canvas

    stacked = stack_frames(Overdrawing(), 3)
    stacked.reset()
    stacks = [stacked.step(0)[0] for _ in range(3)]
    assert stacks[-1][::3, 0, 0].tolist() == [1, 2, 3]


def test_grey_is_that_of_the_videos():
    env, colored = grayscale(ActionPictureEnv()), ActionPictureEnv()
    grey, color = (np.stack([each.reset()[0], each.step(1)[0]]) for each in (env, colored))
    assert env.observation_space.contains(grey[0])
    windows = VideoDataset(color, grayscale=True, n_history=1).windows(np.array([0])).frames
    assert np.array_equal(windows[0].numpy(), grey.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("make", "space"),
    [
        (lambda env: stack_frames(env, 3), spaces.Box(0, 1, (16, 16, 3), np.float32)),
        (lambda env: stack_frames(env, 3), spaces.Dict(picture=spaces.Box(0, 255, (16, 16, 3), np.uint8))),
        (lambda env: stack_frames(env, 3), spaces.Box(-1, 1, (4,), np.float32)),
        (grayscale, spaces.Box(0, 1, (16, 16, 3), np.float32)),
        (grayscale, spaces.Box(0, 255, (16, 16, 1), np.uint8)),
    ],
)
def test_what_is_no_picture_is_refused(make, space):
    env = ActionPictureEnv()
    env.observation_space = space
    with pytest.raises(ValueError, match=r"The environment observes .*, expected pictures"):
        make(env)


@pytest.mark.parametrize("wrap", [grayscale, lambda env: stack_frames(env, 3)])
def test_several_environments_in_one_are_refused(wrap):
    with pytest.raises(ValueError, match=r"is a DummyVecEnv, expected a single one: .*wrapper_class="):
        wrap(DummyVecEnv([ActionPictureEnv]))


def test_each_of_several_environments_is_wrapped_as_the_error_says():
    env = make_vec_env(ActionPictureEnv, 2, wrapper_class=stack_frames, wrapper_kwargs={"n_stack": 3})
    assert env.reset().shape == (2, 9, SIZE, SIZE)


@pytest.mark.parametrize("keep_dim", [False, True])
def test_grey_frames_with_and_without_a_channel_axis(keep_dim):
    assert episode(GrayscaleObservation(ActionPictureEnv(), keep_dim=keep_dim), 4).shape == (6, 4, 16, 16)
