"""A world whose pictures tell what happened in it, videos of it, and a model that learns in it within a second."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter

from sb3_bcvlr import BCVLR

needs_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="no GPU")

SIZE = 16
N_ACTIONS = 3

TINY_NETWORKS: dict[str, Any] = dict(
    encoder_channels=[4],
    encoder_strides=[2],
    idm_channels=[4],
    idm_hidden_dim=8,
    quantizer_kwargs=dict(n_codebooks=2, codebook_size=8, code_dim=2, n_latents=1, decay=0.9, revive_codes=True),
    world_model_channels=4,
    latent_policy_kwargs=dict(channels=[4], hidden_dim=8),
    share_encoder=True,
    action_decoder_dims=[8],
)
TINY_STEPS: dict[str, Any] = dict(
    quantizer_warmup_steps=0,
    world_model_coef=1.0,
    tune_encoder=(),
    learning_starts=9,
    rollout_steps=10,
    buffer_size=100,
    pretrain_encoder_steps=2,
    pretrain_dynamics_steps=2,
    pretrain_imitation_steps=2,
    gradient_steps=2,
    imitation_steps=2,
    batch_size=4,
    encoder_batch_size=4,
    dynamics_batch_size=4,
    imitation_batch_size=4,
    policy_tau=1.0,  # an average would not get far in so few steps
    n_neighbors=0,
    feature_loss_kwargs=dict(projection_dim=4, hidden_dim=8),
)


def picture(action: int, step: int, episode: int) -> np.ndarray:
    """(SIZE, SIZE, 3): what was done last in red (-1: nothing yet), the step in green, the episode in blue."""
    colors = np.array((80 * (action + 1), 10 * step, 5 * episode % 256), np.uint8)
    image = np.broadcast_to(colors, (SIZE, SIZE, 3)).copy()
    image[step % SIZE, :] = 255 - image[step % SIZE, :]  # a line that moves, so that there is something to see
    return image


def read(frames: Any) -> np.ndarray:
    """(..., 3, H, W) to (..., 3): action (-1: nothing yet), step and episode that the pictures show."""
    colors = np.asarray(frames)[..., -1, -1].astype(int)  # the line reaches the last row only at step SIZE - 1
    return np.stack((colors[..., 0] // 80 - 1, colors[..., 1] // 10, colors[..., 2] // 5), axis=-1)


class ActionPictureEnv(gym.Env):
    """Shows the action just taken. Acting pays nothing, or whatever ``reward`` says."""

    def __init__(self, episode_length: int = 7, channels_first: bool = False, reward: float = 0.0):
        assert episode_length < SIZE - 1, episode_length
        self.channels_first = channels_first
        shape = (3, SIZE, SIZE) if channels_first else (SIZE, SIZE, 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.episode_length, self.reward = episode_length, reward
        self.n_episodes = -1

    def _observation(self, action: int) -> np.ndarray:
        image = picture(action, self.n_steps, self.n_episodes)
        return image.transpose(2, 0, 1) if self.channels_first else image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        self.n_episodes += 1
        return self._observation(-1), {}

    def step(self, action):
        self.n_steps += 1
        return self._observation(int(action)), self.reward, self.n_steps >= self.episode_length, False, {}


class DotEnv(gym.Env):
    """Push the white dot onto the red one, +1 for each step within 3 pixels. x pushes it down and right, y up and right."""

    SIZE, PIXELS = 32, 3.0

    def __init__(self, episode_length: int = 20):
        self.observation_space = spaces.Box(0, 255, (self.SIZE, self.SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)  # bounds that are not 1
        self.episode_length = episode_length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        self.ground = self.np_random.integers(20, 90, size=3)
        self.dot, self.target = self.np_random.uniform(4, self.SIZE - 4, size=(2, 2))
        return self._picture(), {}

    def step(self, action):
        x, y = np.clip(action, -2, 2) / 2 * self.PIXELS
        self.dot = np.clip(self.dot + np.array([x - y, x + y]) / np.sqrt(2), 4, self.SIZE - 4)  # (row, column)
        self.n_steps += 1
        near = np.linalg.norm(self.target - self.dot) < 3
        return self._picture(), float(near), False, self.n_steps >= self.episode_length, {}

    def expert_action(self) -> np.ndarray:
        down, right = (self.target - self.dot) / self.PIXELS / np.sqrt(2) * 2
        return np.clip(np.array([down + right, right - down]), -2, 2)

    def _picture(self) -> np.ndarray:
        picture = np.broadcast_to(self.ground, (self.SIZE, self.SIZE, 3)).astype(float)
        rows, columns = np.mgrid[: self.SIZE, : self.SIZE]
        for (row, column), color in ((self.target, (230, 40, 40)), (self.dot, (245, 245, 245))):
            cover = np.clip(3.5 - np.hypot(rows - row, columns - column), 0, 1)[
                ..., None
            ]  # antialiased: parts of pixels count
            picture = picture * (1 - cover) + np.array(color) * cover
        return picture.astype(np.uint8)


def dot_videos(n_episodes: int, seed: int = 0, noise: float = 0.3) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """The expert's episodes until shortly after it arrives, its actions, and its mean return over whole episodes."""
    env, rng = DotEnv(), np.random.default_rng(seed)
    videos, actions, returns = [], [], []
    for episode in range(n_episodes):
        frames, taken, rewards = [env.reset(seed=seed * 100_000 + episode)[0]], [], []
        for _ in range(env.episode_length):
            taken.append(np.clip(env.expert_action() + noise * rng.normal(size=2), -2, 2))
            frame, reward, *_ = env.step(taken[-1])
            frames.append(frame)
            rewards.append(reward)
        end = int(np.argmax(rewards)) + 3 if any(rewards) else env.episode_length
        videos.append(np.stack(frames[: end + 1]))
        actions.append(np.stack(taken[:end]))
        returns.append(sum(rewards))
    return videos, actions, float(np.mean(returns))


def fake_videos(n_episodes: int = 3, n_frames: int = 8) -> list[np.ndarray]:
    """Episodes (n_frames, SIZE, SIZE, 3) of random actions."""
    actions = np.random.default_rng(0).integers(N_ACTIONS, size=(n_episodes, n_frames))
    actions[:, 0] = -1
    return [np.stack([picture(a, t, i) for t, a in enumerate(actions[i])]) for i in range(n_episodes)]


class Memory(KVWriter):
    """Keeps what is logged."""

    def __init__(self):
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values, key_excluded, step=0):
        self.lines.append((step, dict(key_values)))

    def close(self):
        pass

    def values(self, key: str) -> list[Any]:
        return [values[key] for _, values in self.lines if key in values]


def darkening_video(n_frames: int, height: int, width: int) -> np.ndarray:
    """(n_frames, height, width, 3): grey, each picture a little darker than the one before it."""
    return (
        np.linspace(200, 100, n_frames).astype(np.uint8)[:, None, None, None].repeat(height, 1).repeat(width, 2).repeat(3, 3)
    )


def tiny_arguments(**overrides: Any) -> dict[str, Any]:
    """Arguments of a tiny ``BCVLR``; what is in ``policy_kwargs`` is laid over the tiny networks."""
    policy_kwargs = {**TINY_NETWORKS, **overrides.pop("policy_kwargs", {})}
    return {**TINY_STEPS, "seed": 0, "device": "cpu", "mixed_precision": False, "policy_kwargs": policy_kwargs, **overrides}


def tiny_model(env: Any = None, videos: Any = None, **overrides: Any) -> BCVLR:
    env = ActionPictureEnv() if env is None else env
    return BCVLR(env, fake_videos() if videos is None else videos, **tiny_arguments(**overrides))


def snapshot(model: BCVLR) -> dict[str, th.Tensor]:
    """Copies of all parameters and buffers of the policy."""
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def equal(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> bool:
    return first.keys() == second.keys() and all(th.equal(first[name], second[name]) for name in first)


NO_NETWORKS = {"pretrained", "video_latents", "n_same_before"}


def moved(before: dict[str, th.Tensor], after: dict[str, th.Tensor]) -> set[str]:
    """The networks, by their first name, of which anything is different; the average of pi counts as pi."""
    networks = {name: name.split(".")[0].removesuffix("_average") for name in before if name not in NO_NETWORKS}
    return {network for name, network in networks.items() if not th.equal(before[name], after[name])}
