"""What every algorithm that learns from videos shares: the videos, ``pretrain`` before ``learn``, save hooks."""

import ctypes
import inspect
import os
import platform
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import GrayscaleObservation
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, is_vecenv_wrapped, unwrap_vec_normalize
from tqdm import tqdm

from sb3_bcvlr.common.checks import check_whole, checked_names, is_number
from sb3_bcvlr.common.files import written_beside
from sb3_bcvlr.common.video_dataset import VideoDataset
from sb3_bcvlr.common.window_replay_buffer import WindowReplayBuffer

N_LOOKED_AT = 256  # windows, for something that moves
LARGE_BLOCK = 2**30  # bytes; a batch's activations are smaller

SelfVideoImitation = TypeVar("SelfVideoImitation", bound="VideoImitationAlgorithm")


class VideoImitationAlgorithm(OffPolicyAlgorithm):
    """
    An SB3 algorithm that learns from expert videos beside its replay buffer, without rewards and without expert actions.

    :param env: a VecEnv, a Gymnasium environment or its id, observing uint8 images; None for a model that is to be loaded
    :param videos: a ``VideoDataset`` or anything that it takes; None for a model that only predicts
    :param policy: class or alias
    :param n_history: observations before o_t+1 in the windows of videos and replay; None: those of a ``VideoDataset`` given,
        else 1 where the environment stacks frames and 2 where it does not
    :param n_stack: frames in an observation; None: those of a ``VideoDataset`` given, else frames of 3 channels, or of 1
    :param rollout_steps: environment steps, of all environments together, between two calls of ``train``; rounded up to as
        many in each environment
    :param train_freq: the same in SB3's way, counted in each environment; overrules ``rollout_steps``
    :param literal: names of the authors' literal behaviours, out of ``literal_choices``
    :param kwargs: go to ``OffPolicyAlgorithm``
    :raises ValueError: observations are no images, actions neither discrete nor bounded, frames stacked in another way than
        ``n_stack`` says, a name in ``literal`` unknown
    """

    literal_choices: ClassVar[frozenset[str]] = frozenset()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """
        :raises ValueError: the policy comes first or second, as in SB3; told before Python says of what is named besides that
            it was given twice
        """
        for place, expected, argument in zip(("first", "second"), ("environment", "videos"), args, strict=False):
            if _is_policy(argument):
                raise ValueError(
                    f"The {place} argument is the policy {argument!r}, expected the {expected}: `{cls.__name__}(env, videos, "
                    "policy)`."
                )
        return super().__new__(cls)

    def __init__(
        self,
        env: Any,
        videos: Any,
        policy: Any,
        n_history: int | None,
        n_stack: int | None,
        rollout_steps: int,
        train_freq: Any,
        literal: Collection[str],
        **kwargs: Any,
    ):
        if isinstance(env, type):
            raise ValueError(
                f"The environment is the class {env.__name__}, expected one that is made of it: {env.__name__}()."
            )
        env = maybe_make_env(env, verbose=0)
        if env is not None:
            if not hasattr(env, "observation_space"):
                raise ValueError(
                    f"The first argument is a {type(env).__name__}, expected the environment: `{type(self).__name__}(env, "
                    "videos)`."
                )
            _check_vector(env)
            _check_spaces(env.observation_space, env.action_space)
        policies = tuple(self.policy_aliases.values())
        if not isinstance(policy, str) and not (isinstance(policy, type) and issubclass(policy, policies)):
            raise ValueError(
                f"The policy is {policy!r}, expected one of {sorted(self.policy_aliases)} or a class made of theirs."
            )
        super().__init__(
            policy=policy,
            env=env,
            train_freq=train_freq,
            replay_buffer_class=WindowReplayBuffer,
            support_multi_env=True,
            sde_support=False,
            **kwargs,
        )
        self.videos = videos
        self.n_history = n_history
        self.n_stack = n_stack
        self.rollout_steps: int | None = rollout_steps
        self.literal = literal
        self._own_videos: VideoDataset | None = None  # the dataset that nobody else draws from
        self._n_stages_finished = 0  # of a pre-training that was interrupted
        self._tb_log_name = type(self).__name__
        own = self._own_policy_kwargs().keys()
        if not isinstance(self.policy_kwargs, dict) or self.policy_kwargs.keys() & own:
            raise ValueError(
                f"policy_kwargs is {self.policy_kwargs!r}, expected a dict of the policy's arguments without those that the "
                f"model itself takes: {sorted(own)}."
            )

    def _setup_model(self) -> None:
        if getattr(self, "observation_space", None) is None:
            raise ValueError(f"There is no environment: `{type(self).__name__}(env, ...)`, or `load(path)` for a saved model.")
        self.literal = checked_names("literal", self.literal, self.literal_choices)
        self._check_train_freq()
        for name in ("learning_rate", "rollout_steps", "train_freq", "_stats_window_size"):
            setattr(self, name, _of_python(getattr(self, name)))
        if self.train_freq is None or isinstance(self.train_freq, TrainFreq):  # not given, or as a saved model had it
            self.train_freq = self.train_freq if self.rollout_steps is None else -(-self.rollout_steps // self.n_envs)
        else:
            self.rollout_steps = None
        if self.env is not None:
            self._check_wrappers(self.env)
        self.n_stack = self._find_n_stack()
        if self.n_history is None:
            self.n_history = self.videos.n_history if isinstance(self.videos, VideoDataset) else 1 if self.n_stack > 1 else 2
        self.replay_buffer_kwargs = {
            "n_history": self.n_history,
            "n_stack": self.n_stack,
            "cross_episodes": "cross_episodes" in self.literal,
            "seed": self.seed,
        }
        users_policy_kwargs = self.policy_kwargs  # `load` compares them with those that a user gives
        self.policy_kwargs = {**users_policy_kwargs, **self._own_policy_kwargs()}
        super()._setup_model()
        self.policy_kwargs = users_policy_kwargs
        self._setup_videos()

    @property
    def pretrained(self) -> bool:
        """Whether the networks have learned from videos, which is known wherever their parameters go."""
        return bool(self.policy.pretrained)

    @pretrained.setter
    def pretrained(self, value: bool) -> None:
        self.policy.pretrained = th.tensor(value, device=self.device)

    def _own_policy_kwargs(self) -> dict[str, Any]:
        """Arguments of the policy that follow from the algorithm's own."""
        return {"n_history": self.n_history, "literal": self.literal}

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """SB3's, by which each of its ways to get an environment goes."""
        _check_vector(env)
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _check_train_freq(self) -> None:
        """
        :raises ValueError: it is not as SB3 takes it
        """
        given: Any = self.train_freq
        frequency, unit = given if isinstance(given, tuple) and len(given) == 2 else (given, "step")
        unit = getattr(unit, "value", unit)  # of an enumeration, once SB3 has read it
        is_frequency = isinstance(frequency, int | np.integer) and frequency >= 1 and unit in ("step", "episode")
        if not is_frequency and (given is not None or self.rollout_steps is None):
            raise ValueError(f'train_freq is {given!r}, expected a number of steps from 1 on, or (number, "episode").')
        if unit == "episode" and self.n_envs > 1:
            raise ValueError(
                f"train_freq is {given}, and there are {self.n_envs} environments, whose episodes do not end together: count "
                "steps."
            )

    def _check_wrappers(self, env: Any) -> None:
        """
        :raises ValueError: the environment is wrapped in something that spoils pictures
        """
        if is_vecenv_wrapped(env, VecFrameStack):
            raise ValueError(
                "The environment is stacked by SB3's VecFrameStack, whose episodes begin with black frames that no video "
                "shows: stack with sb3_bcvlr.envs.stack_frames before it is vectorized, as make_vec_env(id, n_envs, "
                'wrapper_class=stack_frames, wrapper_kwargs={"n_stack": n}) does.'
            )
        normalize = unwrap_vec_normalize(env)
        if normalize is not None and normalize.observation_space.shape != self.observation_space.shape:
            raise ValueError(
                "VecNormalize lies around an environment whose pictures have their channels last, where SB3 mixes them up in "
                "rollouts: leave it out. It would normalize rewards alone, which are never used."
            )

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        SB3's.

        :raises ValueError: it has other spaces, or is wrapped in something that spoils pictures
        """
        self._check_wrappers(env)
        super().set_env(env, force_reset)

    def _find_n_stack(self) -> int:
        """Frames in an observation: as told, as the videos are stacked, else of 3 channels, or of 1 if 3 do not divide."""
        assert self.observation_space.shape is not None
        channels = self.observation_space.shape[0]
        if self.n_stack is not None:
            if channels not in (self.n_stack, 3 * self.n_stack):
                raise ValueError(
                    f"n_stack is {self.n_stack}, but observations have {channels} channels, expected {3 * self.n_stack}, or "
                    f"{self.n_stack} where frames are grey."
                )
            return self.n_stack
        if isinstance(self.videos, VideoDataset) and channels % self.videos.n_stack == 0:
            return self.videos.n_stack
        return channels if channels % 3 else channels // 3

    def _setup_videos(self) -> None:
        """Make a dataset of ``videos`` that gives what the environment gives, or check the one that was given."""
        if self.videos is None:
            return
        assert self.observation_space.shape is not None and self.n_history is not None and self.n_stack is not None
        channels, height, width = self.observation_space.shape
        if not isinstance(self.videos, VideoDataset):
            self._check_grey()
            self.videos = VideoDataset(
                self.videos,
                image_size=(height, width),
                grayscale=channels == self.n_stack,
                n_stack=self.n_stack,
                n_history=self.n_history,
                cross_episodes="cross_episodes" in self.literal,
                seed=self.seed,
            )
        elif self.videos is not self._own_videos:  # others draw from the one given, or move it: this takes one of its own
            (self.videos,) = self.videos.spawn(1)
            if self.seed is not None:
                self.videos.seed(self.seed)
        self._own_videos = self.videos
        if self.videos.observation_shape != self.observation_space.shape:
            raise ValueError(
                f"The videos have shape {self.videos.observation_shape} but the environment gives "
                f"{self.observation_space.shape} (channels, height, width): match them with "
                "VideoDataset(..., image_size=, grayscale=, n_stack=)."
            )
        expected = {"n_history": self.n_history, "n_stack": self.n_stack, "cross_episodes": "cross_episodes" in self.literal}
        for name, value in expected.items():
            if getattr(self.videos, name) != value:
                raise ValueError(
                    f"The videos are cut with {name}={getattr(self.videos, name)}, the model expects {name}={value}: "
                    f"pass VideoDataset(..., {name}={value})."
                )
        self.videos.to(self.device)

    def _check_motion(self) -> None:
        """
        :raises ValueError: in no window of the videos anything changes
        """
        n_windows = len(self.videos)
        spread = np.linspace(0, n_windows - 1, N_LOOKED_AT).astype(np.int64)
        starts = range(0, n_windows, N_LOOKED_AT)
        in_turn = (np.arange(start, min(start + N_LOOKED_AT, n_windows)) for start in starts)
        for indices in chain([spread], in_turn):  # the first look tells, but where most of the videos stand still
            frames = self.videos.windows(indices).frames
            if (frames != frames[:, :1]).any():
                return
        raise ValueError(
            "Nothing moves in the videos: every picture is like the one before it. Look at one of them: a screen that was "
            "not there records black."
        )

    def _check_grey(self) -> None:
        """Warn of an environment whose grey is not that of the videos, which are made grey here."""
        if self.env is not None and any(self.env.env_is_wrapped(GrayscaleObservation)):
            warnings.warn(
                "gymnasium.wrappers.GrayscaleObservation weighs colors otherwise than the videos are made grey: take "
                "sb3_bcvlr.envs.grayscale(env), or videos that are grey already, in a VideoDataset.",
                stacklevel=2,
            )

    def set_random_seed(self, seed: int | None = None) -> None:
        """SB3's, and of the videos and the replay."""
        super().set_random_seed(seed)
        for drawn_from in (self._own_videos, self.replay_buffer):  # other videos are the user's, until they are taken
            if seed is not None and isinstance(drawn_from, VideoDataset | WindowReplayBuffer):
                drawn_from.seed(seed)

    def pretrain(self: SelfVideoImitation, progress_bar: bool = False) -> SelfVideoImitation:
        """Offline stage: learn from the videos alone. ``learn`` calls it when it has not been done."""
        raise NotImplementedError()

    def _prepare_to_learn(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.videos is None:
            name = type(self).__name__
            raise ValueError(
                f"There are no videos to learn from: `{name}(env, videos=...)` or `{name}.load(path, env=env, videos=...)`. "
                "They are never saved with a model."
            )
        self._setup_videos()

    def learn(
        self: SelfVideoImitation,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfVideoImitation:
        """
        Pre-train on the videos, unless that has been done, then learn online. Called again, it goes on from what it knows, and
        schedules begin anew, as everywhere in SB3.

        :param log_interval: episodes between two lines of the log, beside the one after each call of ``train``
        :raises ValueError: the model has no videos, or no environment, or this stacks frames as videos are not, or a
            number is none
        """
        if not is_number(total_timesteps):
            raise ValueError(f"total_timesteps is {total_timesteps!r}, expected a number of environment steps.")
        if log_interval is not None:
            check_whole(log_interval=log_interval)
        if self.env is None:
            raise ValueError(
                f"There is no environment to learn in: `{type(self).__name__}.load(path, env=env)` or `set_env(env)`."
            )
        self._prepare_to_learn()
        self._tb_log_name = tb_log_name = tb_log_name or type(self).__name__
        learning_starts = self.learning_starts
        if self._n_updates:  # random steps are for a model that knows nothing yet, not for every call
            self.learning_starts = 0
        try:
            # SB3's annotation forgets None, which its loop understands.
            return super().learn(
                total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar  # type: ignore[arg-type]
            )
        finally:
            self.learning_starts = learning_starts

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """SB3's, then the pre-training: a mistake in what ``learn`` was given, or in stacked frames, should not cost one."""
        begins = reset_num_timesteps or self._last_obs is None  # when SB3 resets the environment
        setup = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if not self.pretrained:
            if begins:
                self.replay_buffer.check_first_stacks(self._last_obs)  # type: ignore[union-attr]
            logger = self._logger
            self.pretrain(progress_bar=progress_bar)
            self._logger, self.start_time = logger, time.time_ns()
        return setup

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """SB3's. Cut short by a callback or an interrupt, it leaves an older observation: the next begins with a reset."""
        is_whole = False
        try:
            rollout = super().collect_rollouts(*args, **kwargs)
            is_whole = rollout.continue_training
            return rollout
        finally:
            if not is_whole:
                self._last_obs = None

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """SB3's, but written beside and then renamed: what fails leaves the file that was there."""
        self._write_beside(path, ".zip", partial(super().save, exclude=exclude, include=include))

    def save_replay_buffer(self, path: Any) -> None:
        """SB3's, written beside likewise."""
        self._write_beside(path, ".pkl", super().save_replay_buffer)

    @staticmethod
    def _write_beside(path: Any, suffix: str, write: Callable[[Any], None]) -> None:
        """
        :param path: of a file, which gets this suffix if it has none, as in SB3; or an open file
        """
        if not isinstance(path, str | os.PathLike):
            return write(path)
        path = Path(path)
        with written_beside(path if path.suffix else path.with_name(path.name + suffix)) as temporary:
            write(temporary)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfVideoImitation],
        path: Any,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfVideoImitation:
        """
        SB3's; what it is given besides counts instead of what was saved.

        :raises ValueError: an argument is neither SB3's nor one of the constructor's, or the saved networks do not fit
        """
        unknown = sorted(kwargs.keys() - (inspect.signature(cls).parameters.keys() - {"policy"}))  # whose class is saved
        if unknown:
            raise ValueError(
                f"load was given {unknown}, expected arguments of {cls.__name__} other than the policy, or of SB3's load."
            )
        if "stats_window_size" in kwargs:
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")  # as SB3 keeps it
        try:
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise ValueError(
                f"{path} holds other networks than these arguments make: n_history and policy_kwargs have to be those that "
                f"it was saved with. {error}"
            ) from error

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """
        SB3's.

        :raises ValueError: the file's buffer is of other environments or windows than this model's
        """
        own = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            for name in ("n_envs", "n_history", "n_stack", "cross_episodes", "obs_shape", "action_space"):
                expected, value = (getattr(buffer, name, None) for buffer in (own, self.replay_buffer))
                if value != expected:
                    raise ValueError(f"{path} holds a replay buffer with {name}={value}, the model expects {name}={expected}.")
        except Exception:
            self.replay_buffer = own
            raise

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """SB3's, but a last rollout that goes beyond the total takes no schedule below its end."""
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _pretraining_steps(self, n_steps: int, stage: str, progress_bar: bool) -> Iterable[int]:
        """Count the gradient steps of a stage under a progress bar of its own."""
        is_shown = progress_bar and n_steps > 0
        return tqdm(range(n_steps), desc=f"{stage:>14}", unit="step", disable=not is_shown, dynamic_ncols=True, mininterval=1)

    def _start_log(self, stage: str) -> None:
        """A run of its own, since its axis is not environment steps."""
        if not self._custom_logger:
            name = f"{self._tb_log_name}_{stage}"
            self._logger = configure_logger(self.verbose, self.tensorboard_log, name, reset_num_timesteps=True)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "videos", "_own_videos"]


def _is_policy(argument: Any) -> bool:
    """One of SB3's names of policies, or a class of them."""
    if isinstance(argument, type):
        return issubclass(argument, BasePolicy)
    return isinstance(argument, str) and argument in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")


def _of_python(value: Any) -> Any:
    """What SB3 takes, which knows no numbers of NumPy; the rest, and what it has made itself, as it is."""
    if type(value) is tuple:
        return tuple(map(_of_python, value))
    return value.item() if isinstance(value, np.generic) else value


def _check_vector(env: Any) -> None:
    """
    :raises ValueError: several environments are Gymnasium's, which SB3 cannot step
    """
    if isinstance(env, VectorEnv):
        raise ValueError(
            f"The environment is a {type(env).__name__} of Gymnasium, expected a single one or SB3's VecEnv: "
            "stable_baselines3.common.env_util.make_vec_env(id, n_envs=...)."
        )


def _check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    if not is_image_space(observation_space):
        raise ValueError(
            f"The environment observes {observation_space}, expected images: a Box of shape (H, W, C) or (C, H, W) and dtype "
            f"uint8 from 0 to 255. {_how_to_get_images(observation_space)}"
        )
    if not isinstance(action_space, spaces.Discrete | spaces.Box):
        raise ValueError(
            f"The environment acts in {action_space}, expected Discrete or a bounded Box: wrap other actions into one."
        )
    if isinstance(action_space, spaces.Box) and not np.issubdtype(action_space.dtype, np.floating):
        raise ValueError(
            f"The environment acts in {action_space}, expected floats: gymnasium.wrappers.TransformAction can round them."
        )
    if isinstance(action_space, spaces.Box) and not action_space.shape:
        raise ValueError(f"The environment acts in {action_space}, expected at least one axis: make the shape (1,).")
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded():
        raise ValueError(
            f"The environment acts in {action_space}, expected finite bounds: gymnasium.wrappers.ClipAction and "
            "RescaleAction give it some."
        )
    if isinstance(action_space, spaces.Box) and (action_space.low == action_space.high).any():
        raise ValueError(f"The environment acts in {action_space}, expected low < high: leave out what cannot change.")
    if isinstance(action_space, spaces.Discrete) and action_space.start != 0:
        raise ValueError(f"The environment acts in {action_space}, expected actions from 0 on: shift them in a wrapper.")


def _how_to_get_images(space: spaces.Space) -> str:
    """Advice for an environment that observes something else."""
    if isinstance(space, spaces.Dict):
        return "gymnasium.wrappers.AddRenderObservation(env, render_only=True), or SB3's VecExtractDictObs, leaves them alone."
    n_axes = len(space.shape or ())
    if n_axes == 4:
        return "sb3_bcvlr.envs.stack_frames(env, n), in the place of FrameStackObservation, stacks them in their channels."
    if n_axes == 2:
        return (
            "sb3_bcvlr.envs.grayscale(env), in the place of GrayscaleObservation, keeps their channel; "
            "sb3_bcvlr.envs.stack_frames(env, 1) gives them one."
        )
    if n_axes == 3:
        return "They are scaled here: leave out what normalizes them, such as VecNormalize, or scale them to uint8."
    return "gymnasium.wrappers.AddRenderObservation makes them of what the environment renders."


def keep_freed_memory() -> bool:
    """
    Ask glibc to keep large freed blocks for the next gradient step, in this process from now on.

    It would return them to the kernel, which then clears the same pages again and again: much of a step's time on a CPU, in
    exchange for a somewhat larger process (docs/benchmarks/speed.md). Left alone where the user has set
    ``MALLOC_MMAP_THRESHOLD_``.

    :return: whether it was done; False with another C library
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, LARGE_BLOCK) for parameter in (mmap_threshold, trim_threshold))


def optimize(optimizer: th.optim.Optimizer, loss: th.Tensor, max_grad_norm: float | None = None) -> None:
    """One gradient step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if max_grad_norm is not None:
        th.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_grad_norm)
    optimizer.step()
