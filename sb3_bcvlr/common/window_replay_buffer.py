"""Replay buffer that keeps each frame once and cuts windows on sampling."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_bcvlr.common.devices import gather_rows, has_room, machine_memory, to_device


class WindowSamples(NamedTuple):
    frames: th.Tensor  # (batch_size, n_history + 1, n_stack * C, H, W) uint8, the last is o_t+1
    actions: th.Tensor  # (batch_size, 1) or (batch_size, action_dim), a_t


class WindowReplayBuffer(ReplayBuffer):
    """
    Windows of consecutive frames of one episode of one environment, with the action that led to the last frame.

    The step into an episode's last frame gives no window: many simulators (Procgen among them) never render that frame, and
    storing it would cost a second copy of all others. Before an episode's start its first frame is repeated, as in stacked
    observations, of which only the newest frame is kept. Rewards are not stored.
    On a GPU a copy of the frames lies in its memory, if it fills at most half of what is free. Parameters are those of SB3's
    ``ReplayBuffer``, and:

    :param n_history: observations before o_t+1 in a window
    :param n_stack: frames that the environment stacks in an observation, oldest first
    :param cross_episodes: as the authors do, cut windows without looking at where episodes end
    :param seed: of the buffer's own random generator
    :raises ValueError: ``optimize_memory_usage`` is asked for (this buffer has its own way), there is no memory for so many
        frames, or the environment stacks them in another way
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        n_history: int = 2,
        n_stack: int = 1,
        cross_episodes: bool = False,
        seed: int | None = None,
    ):
        if optimize_memory_usage:
            raise ValueError(
                "optimize_memory_usage=True is not needed: this replay buffer keeps every frame once. Leave it out."
            )
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.n_reached = n_history + n_stack - 2  # frames before o_t that its window reaches back to
        self.buffer_size = max(buffer_size // n_envs, self.n_reached + 2)
        self.n_history = n_history
        self.n_stack = n_stack
        self.cross_episodes = cross_episodes
        self.handle_timeout_termination = False  # SB3 asks for it when it loads a buffer
        shape = (self.buffer_size, n_envs)
        channels, *size = self.obs_shape
        self.n_channels = channels // n_stack
        self.frames = self._allocate((*shape, self.n_channels, *size))
        self.actions = np.zeros((*shape, self.action_dim), self._maybe_cast_dtype(action_space.dtype))
        self.ends = np.ones(shape, bool)  # the next row holds another episode
        self._resident: th.Tensor | None = None  # a copy of the frames in a GPU's memory, but for
        self._n_fresh = self.buffer_size  # the newest rows
        self._next_observations: np.ndarray | None = None
        self._windows: np.ndarray | None = None  # flat indices of legal windows, found at the first sample after an add
        self.seed(seed)

    def _allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        """Memory that fills up as steps are made; a mistake is told before it has."""
        gib, memory_gib = math.prod(shape) / 2**30, machine_memory() / 2**30
        advice = (
            f"{shape[0] * shape[1]} frames of {shape[-2]}x{shape[-1]} pixels take {gib:.1f} GiB: choose a smaller buffer_size "
            "or smaller pictures (gymnasium.wrappers.ResizeObservation, which needs opencv-python)."
        )
        if gib > memory_gib:
            warnings.warn(f"This machine has {memory_gib:.1f} GiB of memory. {advice}", stacklevel=2)
        try:
            return np.zeros(shape, np.uint8)
        except MemoryError as error:
            raise ValueError(f"There is no memory for the replay buffer. {advice}") from error

    def seed(self, seed: int | None) -> None:
        """Start the generator of :meth:`sample` anew."""
        self._rng = np.random.default_rng(seed)

    def reset(self) -> None:
        """Forget all steps."""
        super().reset()
        self.ends[:] = True
        self._n_fresh = self.buffer_size
        self._next_observations = None
        self._windows = None

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        if self._next_observations is not None:  # episodes also break where the environment was reset from outside
            same = (self._next_observations == obs).all(tuple(range(1, obs.ndim)))
            self.ends[self.pos - 1] |= ~same
        if self.n_stack > 1:
            self._check_stacks(obs, next_obs, done)
        self._next_observations = np.array(next_obs)
        self.frames[self.pos] = obs[:, -self.n_channels :]
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.ends[self.pos] = done
        self._windows = None
        self._n_fresh = min(self._n_fresh + 1, self.buffer_size)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> WindowSamples:  # type: ignore[override]
        """
        :raises ValueError: there is no window yet
        """
        if self._windows is None:
            self._windows, self._starts = self._find_windows()
        if len(self._windows) == 0:
            raise ValueError(
                f"The replay buffer holds {self.size()} steps of each environment and not one window of {self.n_history + 1} "
                "frames of one episode: collect more steps before training (`learning_starts`, `train_freq`), or keep more "
                f"(`buffer_size`, for all {self.n_envs} environments). Episodes of a single step give none."
            )
        ages, envs = np.divmod(self._rng.choice(self._windows, batch_size), self.n_envs)
        steps = np.arange(1 - self.n_history, 2)[:, None] + np.arange(1 - self.n_stack, 1)  # of o_t-n_history+1 to o_t+1
        rows = np.maximum(ages[:, None] + steps.reshape(-1), self._starts[ages, envs][:, None])
        frames = self._gather((rows + self._oldest) % self.buffer_size, envs[:, None])
        actions = self.actions[(ages + self._oldest) % self.buffer_size, envs]
        return WindowSamples(frames.reshape(batch_size, self.n_history + 1, *self.obs_shape), to_device(actions, self.device))

    def _gather(self, rows: np.ndarray, envs: np.ndarray) -> th.Tensor:
        """Frames of these rows and environments, on the device."""
        if self.device.type == "cuda" and self._n_fresh:
            if self._resident is None and has_room(self.device, self.frames):
                self._resident = th.zeros(self.frames.shape, dtype=th.uint8, device=self.device)
            if self._resident is not None:
                fresh = np.arange(self.pos - self._n_fresh, self.pos) % self.buffer_size
                self._resident[to_device(fresh, self.device)] = to_device(self.frames[fresh], self.device)
                self._n_fresh = 0
        if self._resident is None:
            return to_device(self.frames[rows, envs], self.device)
        return gather_rows(self._resident.flatten(0, 1), rows * self.n_envs + envs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_resident": None, "_n_fresh": self.buffer_size}

    def _check_stacks(self, obs: np.ndarray, next_obs: np.ndarray, done: np.ndarray) -> None:
        """The policy has to meet the stacks that are cut here: of older frames, or of an episode's first frame repeated."""
        self.check_first_stacks(obs[self.ends[self.pos - 1]])
        if (next_obs[~done, : -self.n_channels] != obs[~done, self.n_channels :]).any():
            raise self._wrong_stacks()

    def check_first_stacks(self, observations: np.ndarray) -> None:
        """
        :param observations: with which episodes begin
        :raises ValueError: they are not their first frame repeated
        """
        if (observations[:, : -self.n_channels] != observations[:, self.n_channels :]).any():
            raise self._wrong_stacks()

    def _wrong_stacks(self) -> ValueError:
        return ValueError(
            f"Observations of {self.obs_shape[0]} channels were taken for stacks of {self.n_stack} frames, oldest first, at "
            "an episode's start with its first frame repeated, but these are others. Stack with sb3_bcvlr.envs.stack_frames"
            "(env, n). RGB pictures with an alpha channel: leave that out. Or somebody else has stepped the environment since "
            "`learn` last did, such as `evaluate_policy`: evaluate in another one."
        )

    @property
    def _oldest(self) -> int:
        return self.pos if self.full else 0

    def _find_windows(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Rows are counted by age, the oldest first.

        :return: flat indices ``age * n_envs + env`` of each legal o_t, and (size, n_envs) the age at which its episode starts
        """
        size = self.size()
        ends = np.roll(self.ends, -self._oldest, axis=0)[:size]
        if self.cross_episodes:
            ends = np.zeros_like(ends)
        ages = np.arange(size)[:, None]
        starts = np.zeros_like(ends, dtype=np.int64)
        starts[1:] = np.maximum.accumulate(np.where(ends[:-1], ages[1:], 0), axis=0)
        legal = ~ends
        legal[-1:] = False  # o_t+1 is still to come
        if self.full:  # what came before the oldest row is overwritten, not repeated
            legal[: self.n_reached] = False
        return np.flatnonzero(legal), starts
