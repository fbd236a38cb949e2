"""
Procgen's 16 games behind Stable-Baselines3's ``VecEnv`` and as single Gymnasium environments.

The wheel (procgen-mirror) holds a C++ library that steps a whole vector of games; it is called through ctypes, byte for byte
what ``procgen.ProcgenGym3Env`` gives, without that package's own imports (gym, gym3, cffi) and their notices.
Procgen: Cobbe et al. 2020, https://arxiv.org/abs/1912.01588; interface: ``gym3/libenv.h``.
"""

import ctypes
import importlib.util
import os
import sys
import time
import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from sb3_bcvlr.common.checks import check_task, check_whole, is_whole
from sb3_bcvlr.envs.registration import PROCGEN_GAMES

FRAME_SHAPE = (64, 64, 3)
FORCE_RESET = -1  # as an action: end the episode and draw the next level
MAX_LEVEL = 2**31 - 1
MAX_STATE_BYTES = 2**20
# The number that the C side gives to a mode, and the games that have it: any other pair would end the process.
DISTRIBUTION_MODES: dict[str, tuple[int, tuple[str, ...]]] = {
    "easy": (0, PROCGEN_GAMES),
    "hard": (1, PROCGEN_GAMES),
    "extreme": (2, ("chaser", "dodgeball", "leaper", "starpilot")),
    "memory": (10, ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner")),
}
# Steps after which the game itself ends an episode; the others take DEFAULT_TIME_LIMIT.
DEFAULT_TIME_LIMIT = 1000
TIME_LIMITS = {"bigfish": 6000, "bossfight": 4000, "plunder": 4000, "leaper": 500, "maze": 500}

ACTION_NAMES = tuple("left-down left left-up down no-op up right-down right right-up D A W S Q E".split())
# One hexadecimal digit per action; equal digits, equal effect in that game. Measured: 1,500 states of random play in easy mode
# (bigfish and fruitbot 700 more of their experts' play) were reached again with ``set_states``, and each action followed by
# four no-ops, then by four random actions. Two actions share a digit if frames, rewards and ends were the same in all 3,000
# branches. Others differed in 858 branches or more, but for "down" in coinrun, which matters on crates alone (42 branches).
# 160 states of each game in hard mode contradict none of it.
ACTION_GROUPS = {
    "bigfish": "012345678444444",
    "bossfight": "012345678944444",
    "caveflyer": "012345678944444",
    "chaser": "012345678444444",
    "climber": "001223445222222",
    "coinrun": "012345678444444",
    "dodgeball": "012345678944444",
    "fruitbot": "000111222311111",
    "heist": "012345678444444",
    "jumper": "001223445222222",
    "leaper": "000123444222222",
    "maze": "000123444222222",
    "miner": "000123444222222",
    "ninja": "001223445678966",
    "plunder": "000111222311111",
    "starpilot": "0123456789a9999",
}
# As procgen's own package sets them. All must be named: the library takes other values for some that are missing.
FIXED_OPTIONS: dict[str, str | bool | int] = {
    "num_actions": len(ACTION_NAMES),
    "use_sequential_levels": False,
    "debug_mode": 0,
    "render_human": False,
    "center_agent": True,
    "use_generated_assets": False,
    "use_monochrome_assets": False,
    "restrict_themes": False,
    "use_backgrounds": True,
    "paint_vel_info": False,
}


def time_limit(game: str, distribution_mode: str = "easy") -> int:
    """Number of steps after which ``game`` ends an episode by itself."""
    if game == "jumper" and distribution_mode == "memory":
        return 2000
    return TIME_LIMITS.get(game, DEFAULT_TIME_LIMIT)


def action_groups(game: str) -> np.ndarray:
    """
    (15,) the group of each action, from 0. Actions of one group do the same in ``game``: a decoder is right with any of them.

    :raises ValueError: an unknown game
    """
    check_task(game, PROCGEN_GAMES, "Procgen")
    return np.array([int(digit, 16) for digit in ACTION_GROUPS[game]])


class _Option(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 128), ("dtype", ctypes.c_int), ("count", ctypes.c_int), ("data", ctypes.c_void_p)]


class _Options(ctypes.Structure):
    _fields_ = [("items", ctypes.POINTER(_Option)), ("count", ctypes.c_int)]


class _Buffers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("observations", "rewards", "firsts", "infos", "actions")]


def _data_folder() -> Path:
    """``procgen/data`` of the wheel, found without executing the package."""
    spec = importlib.util.find_spec("procgen")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if Path(folder, "data", "prebuilt").is_dir():
            return Path(folder, "data")
    raise ImportError("Procgen is missing: pip install 'sb3_bcvlr[procgen]'")


@lru_cache(maxsize=1)
def _load_library() -> ctypes.CDLL:
    """
    The C library with the signatures that this module calls.

    :raises ImportError: no wheel, a wheel of another interface, or system libraries that it needs are missing
    """
    path = _data_folder() / "prebuilt" / ("libenv.dylib" if sys.platform == "darwin" else "libenv.so")
    # DEEPBIND (Linux): the wheel's own Qt and zlib come before those that other packages have loaded.
    flags = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0)
    try:
        library = ctypes.CDLL(str(path), mode=flags)
    except OSError as error:
        raise ImportError(
            f"Procgen's library needs system libraries: apt-get install libgl1 libglib2.0-0 ({error})"
        ) from error
    if library.libenv_version() != 1:
        raise ImportError(f"{path} has interface {library.libenv_version()}, expected 1: pip install 'sb3_bcvlr[procgen]'")
    library.libenv_make.argtypes, library.libenv_make.restype = [ctypes.c_int, _Options], ctypes.c_void_p
    library.libenv_set_buffers.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Buffers)]
    for name in ("libenv_act", "libenv_observe", "libenv_close"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("get_state", "set_state"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    return library


def _check_arguments(game: str, n_envs: int, distribution_mode: str, **numbers: int) -> None:
    """Refuse all that the C side would answer by ending the process."""
    check_task(game, PROCGEN_GAMES, "Procgen")
    if distribution_mode not in DISTRIBUTION_MODES:
        raise ValueError(f"distribution_mode is {distribution_mode!r}, expected one of {', '.join(DISTRIBUTION_MODES)}")
    games = DISTRIBUTION_MODES[distribution_mode][1]
    if game not in games:
        raise ValueError(f"{game} has no mode {distribution_mode!r}; the games that have it are {', '.join(games)}")
    check_whole(n_envs=n_envs)
    for name, number in numbers.items():
        if not is_whole(number) or not 0 <= number <= MAX_LEVEL:
            raise ValueError(f"{name} is {number}, expected a whole number from 0 to {MAX_LEVEL}")
    last_level = numbers["start_level"] + numbers["num_levels"]
    if last_level > MAX_LEVEL:
        raise ValueError(f"start_level + num_levels is {last_level}, expected at most {MAX_LEVEL}")


def _to_options(values: dict[str, str | bool | int]) -> tuple[_Options, list[Any]]:
    """``values`` as the C side reads them, and the objects to keep alive until it has."""
    items, keep_alive = (_Option * len(values))(), []
    for item, (name, value) in zip(items, values.items(), strict=True):
        if isinstance(value, str):
            dtype, data = 1, np.frombuffer(os.fsencode(value), np.uint8)
        elif isinstance(value, bool):
            dtype, data = 1, np.array([value], np.uint8)
        else:
            dtype, data = 2, np.array([value], np.int32)
        item.name, item.dtype, item.count, item.data = name.encode(), dtype, data.size, data.ctypes.data
        keep_alive.append(data)
    return _Options(items, len(items)), [items, *keep_alive]


def _pointers(*arrays: np.ndarray) -> np.ndarray:
    """The addresses of ``array[i]`` for each array, one array after the other."""
    return np.concatenate([array.ctypes.data + array.strides[0] * np.arange(len(array), dtype=np.uintp) for array in arrays])


def _close(library: ctypes.CDLL, handle: int, process: int, keep_alive: list[Any]) -> None:
    """Free the games. Their threads may still write to ``keep_alive``; a forked child has no such threads to wait for."""
    if os.getpid() == process:
        library.libenv_close(handle)


class ProcgenLibrary:
    """
    One vector of games in the C library: its buffers, and its functions as methods.

    The parameters are those of ``ProcgenVecEnv``; ``levels`` are its ``num_levels`` and ``start_level``. With
    ``num_threads=0`` the caller's thread steps the games.

    :raises ImportError: see ``_load_library``
    :raises ValueError: an argument that the library cannot take
    """

    def __init__(self, game: str, n_envs: int, distribution_mode: str, *, num_threads: int, seed: int, **levels: int):
        _check_arguments(game, n_envs, distribution_mode, seed=seed, num_threads=num_threads, **levels)
        self.game = game
        self._library = _load_library()
        options, keep_alive = _to_options(
            {
                **FIXED_OPTIONS,
                **levels,
                "env_name": game,
                "distribution_mode": DISTRIBUTION_MODES[distribution_mode][0],
                "rand_seed": seed,
                "num_threads": num_threads,
                "resource_root": str(_data_folder() / "assets") + os.sep,  # the library appends file names to it
            }
        )
        self._handle = self._library.libenv_make(n_envs, options)
        self.frames = np.zeros((n_envs, *FRAME_SHAPE), np.uint8)
        self.rewards = np.zeros(n_envs, np.float32)
        self.firsts = np.zeros(n_envs, np.uint8)  # 1: the frame opens an episode, the reward closed the one before
        self.actions = np.zeros(n_envs, np.int32)
        self.previous_levels = np.zeros(n_envs, np.int32)
        self.previous_complete = np.zeros(n_envs, np.uint8)
        self.levels = np.zeros(n_envs, np.int32)
        infos = _pointers(self.previous_levels, self.previous_complete, self.levels)
        buffers = (_pointers(self.frames), self.rewards, self.firsts, infos, _pointers(self.actions))
        keep_alive += [*buffers, *vars(self).values()]
        self.close = weakref.finalize(self, _close, self._library, self._handle, os.getpid(), keep_alive)
        # The first levels are drawn, and shown in the buffers, as soon as these are known.
        self._library.libenv_set_buffers(self._handle, _Buffers(*(array.ctypes.data for array in buffers)))

    @property
    def handle(self) -> int:
        """Address of the games; raises RuntimeError once they are closed, where the library would crash."""
        if not self.close.alive:
            raise RuntimeError(f"This vector of {self.game} is closed")
        return self._handle

    def act(self, actions: np.ndarray | int) -> None:
        """Start a step with ``actions`` (n_envs,); a second call waits for the first."""
        self.actions[:] = actions
        self._library.libenv_act(self.handle)

    def observe(self) -> None:
        """Wait until the step is done and the buffers hold its result."""
        self._library.libenv_observe(self.handle)

    def get_states(self) -> list[bytes]:
        """The whole state of each game, some 30 kB each."""
        buffer = ctypes.create_string_buffer(MAX_STATE_BYTES)
        sizes = (self._library.get_state(self.handle, i, buffer, MAX_STATE_BYTES) for i in range(len(self.actions)))
        return [ctypes.string_at(buffer, size) for size in sizes]

    def set_states(self, states: Sequence[bytes]) -> None:
        """
        Put the games into ``states`` (one each, from any vector of the same game); the buffers show them at once.

        :raises ValueError: another number of states or another game
        """
        if len(states) != len(self.actions):
            raise ValueError(f"Got {len(states)} states for {len(self.actions)} environments")
        header = len(self.game).to_bytes(4, sys.byteorder) + self.game.encode()  # after the version, 4 bytes
        if any(state[4 : 4 + len(header)] != header for state in states):
            raise ValueError(f"These states are not all of {self.game}")
        for i, state in enumerate(states):
            self._library.set_state(self.handle, i, state, len(state))


def make_procgen(game: str, n_envs: int = 1, seed: int | None = None, **kwargs: Any) -> "ProcgenVecEnv":
    """``n_envs`` copies of a Procgen game as one ``VecEnv``; see ``ProcgenVecEnv``, which takes the other parameters."""
    return ProcgenVecEnv(game, n_envs, seed, **kwargs)


class ProcgenVecEnv(VecEnv):
    """
    A native ``VecEnv``: observations (n_envs, 3, 64, 64) uint8, one C++ vector below, no object per environment.

    - When an episode ends, its info holds ``episode`` (as from ``Monitor``, so that training logs and ``evaluate_policy``
      count whole episodes), ``TimeLimit.truncated``, ``level_seed``, ``level_complete`` and ``terminal_observation``.
      **The latter is the last frame that was seen, one step before the end**: the games never draw the true one.
    - ``TimeLimit.truncated`` is deduced from the length, since the games do not tell a time-out from a death: a death in
      the very last step counts as a time-out.
    - ``reset()`` ends all episodes and draws new levels; the first one gives the levels drawn at construction.
    - ``seed(s)`` builds the vector anew at the next reset, as if constructed with ``s`` modulo 2**31.
    - Observations are copies: channel-first views of channel-last memory, which is what the games write and what torch
      reads as ``channels_last``. To transpose the bytes as well would cost 10 to 45 % of the frames per second.

    :param game: one of ``PROCGEN_GAMES``
    :param n_envs: number of environments
    :param seed: fixes the sequence of levels of each of them; None: any
    :param num_levels: how many levels there are, from ``start_level`` on; 0 for all 2**31 - 1
    :param start_level: seed of the first level; without effect if ``num_levels`` is 0
    :param distribution_mode: "easy", "hard", or for some games "extreme" or "memory"
    :param num_threads: threads of the C library; the games are the same for any number

    :raises ImportError: the wheel or system libraries are missing
    :raises ValueError: an unknown game or mode, or a number out of range
    """

    _library: ProcgenLibrary
    _untouched: bool  # neither stepped nor reset: the first levels are yet to be handed out
    _frames: np.ndarray  # (n_envs, 64, 64, 3) uint8, never handed out
    _returns: np.ndarray  # (n_envs,) float64, of the running episodes
    _lengths: np.ndarray  # (n_envs,) int64, of the running episodes

    def __init__(
        self,
        game: str,
        n_envs: int,
        seed: int | None,
        num_levels: int = 0,
        start_level: int = 0,
        distribution_mode: str = "easy",
        num_threads: int = 4,
    ):
        self._make_library = partial(
            ProcgenLibrary,
            game,
            n_envs,
            distribution_mode,
            num_threads=num_threads,
            num_levels=num_levels,
            start_level=start_level,
        )
        self.game = game
        self.time_limit = time_limit(game, distribution_mode)
        self.render_mode = "rgb_array"  # costs nothing: the observations are the pictures
        self._start_time = time.time()
        self._build(int(np.random.default_rng().integers(MAX_LEVEL + 1)) if seed is None else seed)
        height, width, channels = FRAME_SHAPE
        observation_space = spaces.Box(0, 255, (channels, height, width), np.uint8)
        super().__init__(n_envs, observation_space, spaces.Discrete(len(ACTION_NAMES)))

    def reset(self) -> np.ndarray:
        seed = self._seeds[0]
        if seed is not None:
            self._library.close()
            self._build(seed % (MAX_LEVEL + 1))
        elif not self._untouched:
            self._library.act(FORCE_RESET)
        self._untouched = False
        self._start_episodes()
        self.reset_infos = [{"level_seed": level} for level in self._library.levels.tolist()]
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        actions = np.asarray(actions)
        are_whole = np.issubdtype(actions.dtype, np.integer) and actions.shape == (self.num_envs,)
        if not are_whole or actions.min() < 0 or actions.max() >= len(ACTION_NAMES):
            raise ValueError(f"Expected {self.num_envs} actions from 0 to {len(ACTION_NAMES) - 1}, got {actions}")
        self._untouched = False
        self._library.act(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        self._library.observe()
        last_frames, self._frames = self._frames, self._library.frames.copy()
        rewards, dones = self._library.rewards.copy(), self._library.firsts.astype(bool)
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(dones):
            infos[i] = self._end_episode(i, last_frames[i])
        return self._observations(), rewards, dones, infos

    def _end_episode(self, i: int, last_frame: np.ndarray) -> dict[str, Any]:
        """The info of environment ``i`` at the end of an episode, whose counts it clears."""
        length, complete = int(self._lengths[i]), bool(self._library.previous_complete[i])
        seconds = round(time.time() - self._start_time, 6)
        info = {
            "episode": {"r": float(self._returns[i]), "l": length, "t": seconds},
            "terminal_observation": np.ascontiguousarray(last_frame.transpose(2, 0, 1)),
            "TimeLimit.truncated": length == self.time_limit and not complete,
            "level_seed": int(self._library.previous_levels[i]),
            "level_complete": complete,
        }
        self._returns[i] = self._lengths[i] = 0
        return info

    def _build(self, seed: int) -> None:
        self._library = self._make_library(seed=seed)
        self._untouched = True
        self._start_episodes()

    def _start_episodes(self) -> None:
        self._library.observe()
        self._frames = self._library.frames.copy()
        self._returns = np.zeros(len(self._frames))
        self._lengths = np.zeros(len(self._frames), np.int64)

    def _observations(self) -> np.ndarray:
        return self._frames.copy().transpose(0, 3, 1, 2)

    @property
    def level_seeds(self) -> np.ndarray:
        """(n_envs,) int32, the level that each environment plays."""
        return self._library.levels.copy()

    def get_states(self) -> list[bytes]:
        """The whole state of each game, some 30 kB each."""
        return self._library.get_states()

    def set_states(self, states: Sequence[bytes]) -> np.ndarray:
        """
        Continue from ``states``, one an environment, and return their observations; lengths and returns count from here.

        :raises ValueError: another number of states or another game
        """
        self._library.set_states(states)
        self._untouched = False
        self._start_episodes()
        return self._observations()

    def get_images(self) -> Sequence[np.ndarray]:
        """A picture (64, 64, 3) uint8 of each environment."""
        return list(self._frames.copy())

    def close(self) -> None:
        self._library.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._require_all(indices)
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args, indices: VecEnvIndices = None, **method_kwargs) -> list[Any]:
        """Call the method of this vector once; every environment gets its result."""
        self._require_all(indices)
        return [getattr(self, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def _require_all(self, indices: VecEnvIndices) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"The environments are one object: indices must be None or name all {self.num_envs}, got {indices}"
            )

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """True for ``Monitor``: ``info["episode"]`` is here, so Stable-Baselines3 need not count rewards or warn."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]


class ProcgenEnv(gym.Env[np.ndarray, np.int64]):
    """
    One game as a Gymnasium environment, ``gymnasium.make("procgen/bigfish-v0")``: observations (64, 64, 3) uint8.

    ``reset(seed=s)`` starts the sequence of levels of ``s``, the same as ``make_procgen(game, 1, s)``; ``reset()`` goes on
    to the next level. The last observation of an episode is the last frame that was seen; ``info`` then has the level's
    seed and whether it was completed.

    :param render_mode: None or "rgb_array", which gives the observation
    The other parameters, and the errors raised, are those of ``ProcgenVecEnv``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        game: str,
        num_levels: int = 0,
        start_level: int = 0,
        distribution_mode: str = "easy",
        render_mode: str | None = None,
    ):
        self._make_venv = partial(  # no threads: there is nothing to share out, and SubprocVecEnv may fork
            ProcgenVecEnv,
            game,
            1,
            num_levels=num_levels,
            start_level=start_level,
            distribution_mode=distribution_mode,
            num_threads=0,
        )
        self._venv = self._make_venv(seed=0)  # shows wrong arguments at once
        self._is_seeded = False
        self._next_frame: np.ndarray | None = None
        self.observation_space = spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = spaces.Discrete(len(ACTION_NAMES))
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or not self._is_seeded:
            self._venv.seed(int(self.np_random.integers(MAX_LEVEL)) if seed is None else seed)
            self._is_seeded, self._next_frame = True, None
        # After an end the game is already in its next level: a second reset would skip it.
        self._frame = self._to_frame(self._venv.reset()[0]) if self._next_frame is None else self._next_frame
        self._next_frame = None
        return self._frame.copy(), {"level_seed": int(self._venv.level_seeds[0])}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._venv.step_async(np.array([action]))
        observations, rewards, dones, infos = self._venv.step_wait()
        if not dones[0]:
            self._frame = self._to_frame(observations[0])
            return self._frame.copy(), float(rewards[0]), False, False, {}
        self._next_frame = self._to_frame(observations[0])
        truncated = infos[0]["TimeLimit.truncated"]
        info = {key: infos[0][key] for key in ("level_seed", "level_complete")}
        return self._frame.copy(), float(rewards[0]), not truncated, truncated, info

    def render(self) -> np.ndarray | None:
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._venv.close()

    @staticmethod
    def _to_frame(observation: np.ndarray) -> np.ndarray:
        return observation.transpose(1, 2, 0)  # (3, 64, 64) to (64, 64, 3)
