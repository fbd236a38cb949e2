"""BCV-LR: behavior cloning from videos via latent representations (Liu, Li, Zhao; NeurIPS 2025; arXiv 2512.21586)."""

import inspect
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule, polyak_update
from torch._functorch import config as functorch_config

from sb3_bcvlr.bcvlr.policies import N_LATENTS_KEPT, BCVLRPolicy
from sb3_bcvlr.common.augmentations import random_shift
from sb3_bcvlr.common.checks import check_whole, checked_names, is_number
from sb3_bcvlr.common.contrastive import InfoNCE
from sb3_bcvlr.common.devices import (
    GraphedStep,
    fused_polyak_update,
    gather_rows,
    lacks_bfloat16,
    multiplies_bfloat16,
    to_device,
)
from sb3_bcvlr.common.video_imitation import VideoImitationAlgorithm, optimize
from sb3_bcvlr.common.window_replay_buffer import WindowReplayBuffer

FALLING_RATE = LinearSchedule(1e-3, 2e-5, 1.0)  # of p and d online
LOG_STEPS = 100  # gradient steps between two lines of the pre-training log, or more, so that
LOG_LINES = 50  # is the most of a stage: a GPU waits while each is made
N_ENCODED_TOGETHER = 1024  # windows that p labels while the features of all of them are kept
N_AT_ONCE = 256  # of them that p labels by one call, and of their pictures that f encodes; on a GPU, to fill it, 1024
POSITIVE = (
    "n_history",
    "n_stack",
    "buffer_size",
    "random_action_steps",
    "rollout_steps",
    "n_epochs",
    "target_update_interval",
    "batch_size",
    "encoder_batch_size",
    "dynamics_batch_size",
    "imitation_batch_size",
    "_stats_window_size",
)
COUNTS = (
    "learning_starts",
    "pretrain_encoder_steps",
    "pretrain_dynamics_steps",
    "quantizer_warmup_steps",
    "pretrain_imitation_steps",
    "imitation_steps",
    "dynamics_pad",
    "imitation_pad",
)
OPTIONAL = ("n_history", "n_stack", "n_epochs", "rollout_steps")  # may be None
WHOLE_NUMBERS = dict.fromkeys(POSITIVE, 1) | dict.fromkeys(COUNTS, 0) | {"gradient_steps": -1}  # and their minima
SCHEDULES = ("learning_rate", "idm_learning_rate", "action_decoder_learning_rate", "world_model_learning_rate")
NOT_NEGATIVE = (
    *SCHEDULES,
    "encoder_learning_rate",
    "dynamics_learning_rate",
    "imitation_learning_rate",
    "exploration_noise",
    "world_model_coef",
    "action_imitation_coef",
    "commitment_coef",
    "max_grad_norm",
)
SHARES = {"policy_tau": "1 averages nothing", "tau": "1 copies"}
SWITCHES: dict[str, tuple[bool | None, ...]] = {"compile": (True, False), "mixed_precision": (True, False, None)}


def log_steps(n_steps: int) -> int:
    """Gradient steps between two lines of the log of a stage that has ``n_steps``."""
    return max(LOG_STEPS, math.ceil(n_steps / LOG_LINES))


class BCVLR(VideoImitationAlgorithm):
    """
    BCV-LR: learn a policy from expert videos and some 100k environment steps, without rewards and without expert actions.

    Offline, an encoder f, a latent-action predictor p with a vector quantizer, a world model w and a latent policy pi are
    pre-trained on the videos. Online, p and an action decoder d learn from the agent's own steps what a latent action does,
    and pi clones the latent actions that p reads in the videos. The policy is a = d(pi(f(o))).
    The defaults are a small set for CPUs and quick runs, whose f learns with p and d, online, instead of before, and whose pi
    has an encoder of its own; ``hyperparams.get("bcvlr", "procgen")`` is the paper's.

    Official code: https://github.com/liuxin0824/BCV-LR-discrete. What differs from it: docs/modules/bcvlr.md.

    :param env: a VecEnv, a Gymnasium environment or its id; observations are uint8 images or stacks of them, actions discrete
        or of a bounded Box
    :param videos: a ``VideoDataset`` or anything that it takes: a folder, files, arrays; without actions
    :param policy: "CnnPolicy" or a class
    :param learning_rate: of pi online; a float or a schedule of the remaining progress
    :param encoder_learning_rate: of f, offline
    :param dynamics_learning_rate: of p and w, offline
    :param imitation_learning_rate: of pi, offline
    :param idm_learning_rate: of p, online; 0 leaves p as pre-trained (ablation "w/o ft"). A float or a schedule, as the next
        two. By default it falls from 1e-3 to 2e-5: the action that p and d read in a pair of frames jumps less and less from
        rollout to rollout (ours)
    :param action_decoder_learning_rate: of d, online
    :param world_model_learning_rate: of w, online; 0 leaves it as pre-trained
    :param n_history: observations before o_t+1 that p sees; w sees them too, pi sees o_t alone. None: as a ``VideoDataset``
        given is cut, else 2, and 1 where the environment stacks frames
    :param n_stack: frames in an observation. None: as a ``VideoDataset`` given is stacked, else frames of 3 channels, or of 1
        if 3 do not divide the observation's; stacks of 3, 6, ... grey frames have to be told
    :param buffer_size: environment steps that the replay buffer holds
    :param learning_starts: training begins when more environment steps have been made; actions are random until then. 0: none
        is random
    :param random_action_steps: how long each of the random actions lasts: where pictures lag behind actions, those that change
        at every step cancel out unseen (ours)
    :param rollout_steps: environment steps, of all environments together, between two calls of ``train``; rounded up to as
        many in each environment
    :param train_freq: the same in SB3's way, counted in each environment; overrules ``rollout_steps``
    :param pretrain_encoder_steps: gradient steps of f, offline; 0: it is as it was initialized until it is tuned
    :param pretrain_dynamics_steps: gradient steps of p and w, offline; 0 leaves the latent-action stage out
    :param quantizer_warmup_steps: how many of these leave z continuous: w first finds out that z is worth listening to (ours)
    :param pretrain_imitation_steps: gradient steps of pi, offline
    :param exploration_noise: standard deviation of the normal noise on continuous actions, scaled to [-1, 1], in rollouts;
        discrete actions are sampled
    :param gradient_steps: of p and d after each rollout; 0 only collects, pi learns nothing either; -1, as in SB3: one for
        each step of the rollout
    :param n_epochs: count these instead as passes over all steps in the replay
    :param imitation_steps: gradient steps of pi after each rollout
    :param batch_size: windows of the replay in a step of p and d
    :param encoder_batch_size: windows of the videos in a step of f
    :param dynamics_batch_size: in a step of p and w
    :param imitation_batch_size: in a step of pi
    :param dynamics_pad: pixels by which a random shift moves each window while p, w and d learn (ours; 0: none)
    :param imitation_pad: pixels by which a random shift moves what pi sees while it clones (ours; 0: none)
    :param tau: of the momentum encoder
    :param policy_tau: of the running average of pi's weights that acts, since what the newest are worth changes from step to
        step (ours; 1: the newest act, which is better where pi makes fewer than some 3 / policy_tau steps)
    :param n_neighbors: the policy decodes so many latent actions of the videos, those nearest to pi's: pi's own, a mean of
        what the expert might have meant, may be none that d has met (ours; 0: pi's own, a = d(pi(f(o)))). None: 16 where
        actions are discrete, 0 where they are continuous
    :param target_update_interval: steps of f between two updates of the momentum encoder
    :param world_model_coef: beta, the weight of the latent-action loss online; 0 leaves w out and saves its time. Not with
        an f that is tuned online, whose features w does not know
    :param action_imitation_coef: weight of what d makes of pi's latent action in pi's loss online: beside the share of z's
        variance that pi leaves unexplained, the cross-entropy to what d makes of the expert's, or the squared error where
        actions are continuous (ours; 0: the squared error of z alone)
    :param commitment_coef: weight of the quantizer's commitment loss
    :param max_grad_norm: of p and w, offline
    :param tune_encoder: where f goes on learning (ablation): "dynamics", with p and w offline; "online", with p and d, which
        a pi that shares f has to follow (``share_encoder`` of ``policy_kwargs``)
    :param feature_loss_class: trains f: ``InfoNCE``, ``PrototypeLoss`` or another module. Made of the encoder, the
        observation's shape, ``literal`` and ``feature_loss_kwargs``, it turns windows (B, n_history + 1, C, H, W) in
        [-0.5, 0.5], of bfloat16 where ``mixed_precision`` is, into the loss; its ``update_target(tau)`` is called every
        ``target_update_interval`` steps. Where it has a ``window``, a slice, it is given these observations of windows alone
    :param feature_loss_kwargs: further arguments of it
    :param mixed_precision: train in bfloat16 where that is safe (``torch.autocast``); weights, losses, codes and ``predict``
        stay float32. None: on CPUs that multiply bfloat16 themselves (AVX512-BF16, AMX), a third less time there. GPUs before
        Ampere, which do not, train in float32 in any case, with a warning
    :param compile: let ``torch.compile`` fuse what the losses compute. For long runs on GPUs: it takes a minute itself,
        and less where PyTorch has kept what it compiled before
    :param literal: what to do as the authors' code does where we think it mistaken (docs/modules/bcvlr.md): any of
        "frozen_reconstruction", "resampled_shift", "cross_episodes", "bounded_features", "zero_counts",
        "double_codebook_update", "world_model_batch_statistics"
    :param policy_kwargs: of ``BCVLRPolicy``, the sizes of the networks
    :param stats_window_size: episodes averaged in the logged returns
    :param tensorboard_log: folder of the tensorboard log
    :param verbose: 0 silent, 1 the logged table, 2 more
    :param seed: of the networks, the actions, the videos and the replay
    :param device: "auto", "cpu" or "cuda"
    :raises ValueError: arguments, spaces or videos that do not fit; the message says what was expected
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": BCVLRPolicy}
    literal_choices: ClassVar[frozenset[str]] = frozenset(
        {
            "frozen_reconstruction",
            "resampled_shift",
            "cross_episodes",
            "bounded_features",
            "zero_counts",
            "double_codebook_update",
            "world_model_batch_statistics",
        }
    )
    policy: BCVLRPolicy
    replay_buffer: WindowReplayBuffer

    def __init__(
        self,
        env: GymEnv | str | None,
        videos: Any = None,
        policy: str | type[BCVLRPolicy] = "CnnPolicy",
        learning_rate: float | Schedule = 5e-4,
        encoder_learning_rate: float = 1e-3,
        dynamics_learning_rate: float = 1e-3,
        imitation_learning_rate: float = 1e-3,
        idm_learning_rate: float | Schedule = FALLING_RATE,
        action_decoder_learning_rate: float | Schedule = FALLING_RATE,
        world_model_learning_rate: float | Schedule = 0.0,
        n_history: int | None = None,
        n_stack: int | None = None,
        buffer_size: int = 100_000,
        learning_starts: int = 1_000,
        random_action_steps: int = 1,
        rollout_steps: int = 4_096,
        train_freq: int | tuple[int, str] | None = None,
        pretrain_encoder_steps: int = 0,
        pretrain_dynamics_steps: int = 1_200,
        quantizer_warmup_steps: int = 800,
        pretrain_imitation_steps: int = 0,
        exploration_noise: float = 0.5,
        gradient_steps: int = 200,
        n_epochs: int | None = None,
        imitation_steps: int = 500,
        batch_size: int = 64,
        encoder_batch_size: int = 64,
        dynamics_batch_size: int = 64,
        imitation_batch_size: int = 64,
        dynamics_pad: int = 0,
        imitation_pad: int = 2,
        tau: float = 0.05,
        policy_tau: float = 0.01,
        n_neighbors: int | None = None,
        target_update_interval: int = 2,
        world_model_coef: float = 0.0,
        action_imitation_coef: float = 0.0,
        commitment_coef: float = 0.05,
        max_grad_norm: float = 2.0,
        tune_encoder: Collection[str] = ("online",),
        mixed_precision: bool | None = None,
        compile: bool = False,
        feature_loss_class: type[th.nn.Module] = InfoNCE,
        feature_loss_kwargs: dict[str, Any] | None = None,
        literal: Collection[str] = (),
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.n_neighbors = n_neighbors  # now, since it is the policy's too
        super().__init__(
            env=env,
            videos=videos,
            policy=policy,
            learning_rate=learning_rate,
            n_history=n_history,
            n_stack=n_stack,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            rollout_steps=rollout_steps,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            batch_size=batch_size,
            tau=tau,
            literal=literal,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.policy_tau = policy_tau
        self.encoder_learning_rate = encoder_learning_rate
        self.dynamics_learning_rate = dynamics_learning_rate
        self.imitation_learning_rate = imitation_learning_rate
        self.idm_learning_rate = idm_learning_rate
        self.action_decoder_learning_rate = action_decoder_learning_rate
        self.world_model_learning_rate = world_model_learning_rate
        self.pretrain_encoder_steps = pretrain_encoder_steps
        self.pretrain_dynamics_steps = pretrain_dynamics_steps
        self.quantizer_warmup_steps = quantizer_warmup_steps
        self.random_action_steps = random_action_steps
        self.pretrain_imitation_steps = pretrain_imitation_steps
        self.exploration_noise = exploration_noise
        self.n_epochs = n_epochs
        self.imitation_steps = imitation_steps
        self.encoder_batch_size = encoder_batch_size
        self.dynamics_batch_size = dynamics_batch_size
        self.imitation_batch_size = imitation_batch_size
        self.dynamics_pad = dynamics_pad
        self.imitation_pad = imitation_pad
        self.target_update_interval = target_update_interval
        self.world_model_coef = world_model_coef
        self.action_imitation_coef = action_imitation_coef
        self.commitment_coef = commitment_coef
        self.max_grad_norm = max_grad_norm
        self.tune_encoder = tune_encoder
        self.mixed_precision = mixed_precision
        self.compile = compile
        self.feature_loss_class = feature_loss_class
        self.feature_loss_kwargs = feature_loss_kwargs or {}
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._check_arguments()
        self.n_neighbors = self.n_neighbors  # now that the actions are known, or what `load` was given
        super()._setup_model()
        if self.mixed_precision and lacks_bfloat16(self.device):
            warnings.warn("This GPU has no bfloat16: mixed_precision is set to False.", stacklevel=3)
            self.mixed_precision = False
        # Faster convolutions (docs/benchmarks/speed.md); torch forgets to annotate this use of `to`.
        self.policy.to(memory_format=th.channels_last)  # type: ignore[call-overload]
        self._random_action: tuple[np.ndarray, np.ndarray] | None = None  # while it lasts
        self._graphed_steps: dict[str, tuple[tuple[Any, ...], GraphedStep]] = {}
        # The optimizers of the online stage, which a saved model takes along; those of pretrain() end with it.
        networks = (self.policy.idm, self.policy.action_decoder, self.policy.world_model, self.policy.encoder)
        groups = [{"params": network.parameters()} for network in networks]
        self.finetune_optimizer = self._optimizer(th.optim.Adam, groups)  # at rates that each update sets
        latent_policy_parameters = self.policy.latent_policy.parameters()
        self.latent_policy_optimizer = self._optimizer(th.optim.Adam, latent_policy_parameters, self.lr_schedule(1))

    @property
    def n_neighbors(self) -> int | None:
        """
        How many latent actions of the videos the policy decodes; to be set at any time, None as in the constructor.

        :raises ValueError: it is set to no whole number, or to more than are kept
        """
        return self.__dict__["n_neighbors"]  # where SB3 saves it from, and loads it to

    @n_neighbors.setter
    def n_neighbors(self, value: int | None) -> None:
        action_space = getattr(self, "action_space", None)
        if value is None and action_space is not None:
            value = 16 if isinstance(action_space, spaces.Discrete) else 0
        if value is not None:
            check_whole(0, n_neighbors=value)
            if value > N_LATENTS_KEPT:
                raise ValueError(f"n_neighbors is {value}, expected at most the {N_LATENTS_KEPT} that are kept.")
        self.__dict__["n_neighbors"] = value
        if "policy" in self.__dict__ and value is not None:
            self.policy.n_neighbors = value

    def _own_policy_kwargs(self) -> dict[str, Any]:
        return {**super()._own_policy_kwargs(), "n_neighbors": self.n_neighbors}

    def _check_numbers(self) -> None:
        """
        :raises ValueError: one is too small, not whole, or no number
        """
        for name, minimum in WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if value is not None or name not in OPTIONAL:
                check_whole(minimum, **{name.strip("_"): value})
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            values = (value(1.0), value(0.0)) if name in SCHEDULES and callable(value) else (value,)  # its start and end
            for number in values:
                if not is_number(number) or number < 0:
                    raise ValueError(
                        f"{name} is {number!r}, expected a number from 0 on{' or a schedule' * (name in SCHEDULES)}."
                    )
        for name, meaning in SHARES.items():
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= 1:
                raise ValueError(f"{name} is {value!r}, expected more than 0 and at most 1: {meaning}.")

    def _check_arguments(self) -> None:
        """
        :raises ValueError: a number is not what it can be, or a name is not known
        """
        self._check_numbers()
        for name, choices in SWITCHES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {choices}.")
        self.feature_loss_kwargs = self.feature_loss_kwargs or {}  # None where `load` is given that
        if not isinstance(self.feature_loss_class, type):
            raise ValueError(f"feature_loss_class is {self.feature_loss_class!r}, expected a class such as InfoNCE.")
        try:
            inspect.signature(self.feature_loss_class).bind(None, None, literal=None, **self.feature_loss_kwargs)
        except TypeError as error:
            raise ValueError(
                f"feature_loss_kwargs is {self.feature_loss_kwargs!r}, expected arguments of "
                f"{self.feature_loss_class.__name__}: {error}"
            ) from error
        quantized = ((self.policy_kwargs or {}).get("quantizer_kwargs") or {}).get("enabled", True)
        if quantized and 0 < self.pretrain_dynamics_steps <= self.quantizer_warmup_steps:
            raise ValueError(
                f"quantizer_warmup_steps is {self.quantizer_warmup_steps}, expected fewer than pretrain_dynamics_steps, "
                f"{self.pretrain_dynamics_steps}: the quantizer learns in the steps that are left."
            )
        self.tune_encoder = checked_names("tune_encoder", self.tune_encoder, {"dynamics", "online"})
        if "online" in self.tune_encoder and not self.idm_learning_rate:
            raise ValueError(
                'tune_encoder has "online", where f learns at idm_learning_rate, which is 0: give it one, or tune_encoder=().'
            )

    def pretrain(self, progress_bar: bool = False) -> "BCVLR":
        """
        Offline stage: f, then p and w, then pi, from the videos alone and without an environment step. Where it was
        interrupted, it goes on with the first of the three that was not finished.

        :param progress_bar: show one for each of them
        :raises ValueError: the model has no videos, or nothing moves in them
        """
        self._prepare_to_learn()
        self._check_motion()
        self._start_log("pretrain")
        self.start_time = time.time_ns()
        self.policy.set_training_mode(True)
        self.pretrained = False  # until it is again
        stages = (self._pretrain_encoder, self._pretrain_dynamics, self._pretrain_imitation)
        for stage in stages[self._n_stages_finished :]:
            stage(progress_bar)
            self._n_stages_finished += 1
        self._n_stages_finished = 0  # called again, it begins again
        self.pretrained = True
        return self

    def _pretrain_encoder(self, progress_bar: bool) -> None:
        """f by its feature loss (Eq. 1 or 10); frozen from here on but where ``tune_encoder`` says."""
        self.policy.encoder.requires_grad_(True)
        shape = self.observation_space.shape
        feature_loss: Any = self.feature_loss_class(
            self.policy.encoder, shape, literal=self.literal, **self.feature_loss_kwargs
        )
        feature_loss.to(self.device)
        parameters = [p for p in feature_loss.parameters() if p.requires_grad]
        optimizer = self._optimizer(th.optim.Adam, parameters, self.encoder_learning_rate)

        compute_loss = self._compiled(lambda frames: feature_loss(self.policy.scale(frames)))

        def update(frames: th.Tensor) -> tuple[th.Tensor]:
            with self._autocast():
                loss = compute_loss(frames)
            optimize(optimizer, loss)
            return (loss.detach(),)

        graphed_update = GraphedStep(update, self.device)
        looked_at = getattr(feature_loss, "window", slice(None))
        losses: list[th.Tensor] = []
        for step in self._pretraining_steps(self.pretrain_encoder_steps, "encoder", progress_bar):
            indices = self.videos.sample_indices(self.encoder_batch_size)
            losses += graphed_update(self.videos.windows(indices, looked_at).frames)
            if (step + 1) % self.target_update_interval == 0:
                feature_loss.update_target(self.tau)
            self._log_pretraining("encoder_loss", losses, self.pretrain_encoder_steps, step + 1)
        self.policy.encoder.requires_grad_(False)
        if self.policy.standardize:
            self.policy.fit_feature_statistics(self.videos.sample(self.encoder_batch_size).frames)
            # Here, since the next stage goes on with the p that it has reached where it was interrupted
            self.policy.rescale_idm(self._label_videos(self.videos.sample_indices(1024)))
        self.policy.start_latent_policy()

    def _pretrain_dynamics(self, progress_bar: bool) -> None:
        """p, its quantizer and w by the latent-action loss (L_la)."""
        networks = [self.policy.idm, self.policy.world_model]
        networks += [self.policy.encoder] if "dynamics" in self.tune_encoder else []
        for network in networks:
            network.requires_grad_(True)
        parameters = [parameter for network in networks for parameter in network.parameters()]
        optimizer = self._optimizer(th.optim.AdamW, parameters, self.dynamics_learning_rate)
        quantizer = self.policy.idm.quantizer
        compute_loss = self._compiled(self._latent_dynamics, joins_kernels=True)

        def update(frames: th.Tensor) -> tuple[()]:
            with self._autocast():
                _, loss = compute_loss(frames)
            optimize(optimizer, loss, self.max_grad_norm)
            return ()

        for step in self._pretraining_steps(self.pretrain_dynamics_steps, "latent actions", progress_bar):
            if step in (0, self.quantizer_warmup_steps):
                quantizer.bypass = not quantizer.enabled or step < self.quantizer_warmup_steps
                graphed_update = GraphedStep(update, self.device)
            graphed_update(self.videos.sample(self.dynamics_batch_size).frames)
            if (step + 1) % log_steps(self.pretrain_dynamics_steps) == 0:
                fresh_videos = self.videos.sample(self.dynamics_batch_size)
                with self._autocast():
                    diagnostics = self.policy.dynamics_diagnostics(fresh_videos.frames)
                for name, value in diagnostics.items():
                    if not (quantizer.bypass and name in ("code_use", "perplexity")):  # of codes that wait for their turn
                        self.logger.record(f"pretrain/{name}", value)
                self._dump_pretraining(self.pretrain_encoder_steps + step + 1)
        quantizer.bypass = not quantizer.enabled
        self.policy.encoder.requires_grad_(False)
        self.policy.world_model.requires_grad_(False)
        if self.policy.standardize:
            self.policy.fit_latent_statistics(self._label_videos(self.videos.sample_indices(4096)))

    def _pretrain_imitation(self, progress_bar: bool) -> None:
        """pi by cloning what p reads in the videos (L_bc)."""
        optimizer = self._optimizer(th.optim.AdamW, self.policy.latent_policy.parameters(), self.imitation_learning_rate)
        n_steps_before = self.pretrain_encoder_steps + self.pretrain_dynamics_steps

        def log(step: int, losses: list[th.Tensor]) -> None:
            self._log_pretraining("imitation_loss", losses, self.pretrain_imitation_steps, n_steps_before + step)

        self._imitate_videos(self.pretrain_imitation_steps, optimizer, progress_bar, log, with_actions=False)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if isinstance(self.action_space, spaces.Box):  # anew, since exploration_noise may be another by now
            shape = self.action_space.shape
            self.action_noise = NormalActionNoise(np.zeros(shape), np.full(shape, self.exploration_noise))
        return super()._setup_learn(*args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        # Until the first update, whenever a rollout ends: a d that has not been trained means nothing.
        is_random = learning_starts > 0 and (self.num_timesteps < learning_starts or self._n_updates == 0)
        if is_random and self._random_action is not None and self.num_timesteps // n_envs % self.random_action_steps:
            return self._random_action
        # All rollouts' observations have one shape, and weights change in place: a GPU acts by one graph.
        decode = self._graphed("decode", lambda observations: (self.policy.decode(observations),), self.policy.n_neighbors)
        self.policy.rollout_decode = decode
        try:
            # SB3 draws at random while num_timesteps < learning_starts, which this makes so where is_random.
            action = super()._sample_action(self.num_timesteps + is_random, None if is_random else action_noise, n_envs)
        finally:
            self.policy.rollout_decode = None
        self._random_action = action if is_random else None
        return action

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Online stage, after each rollout: p and d learn from the rollouts (L_ft), pi from the videos (L_bc)."""
        if self.replay_buffer.size() < 2:  # o_t+1 is stored one step later: there is no window yet
            return
        if self.n_epochs is not None:
            gradient_steps = math.ceil(self.n_epochs * self.replay_buffer.size() * self.n_envs / batch_size)
        self._update(self.replay_buffer, gradient_steps, batch_size, self.imitation_steps)
        self.dump_logs()

    def _update(self, replay_buffer: WindowReplayBuffer, gradient_steps: int, batch_size: int, imitation_steps: int) -> None:
        """One round of the online stage: p and d, then pi."""
        self._finetune(replay_buffer, gradient_steps, batch_size)
        self._update_learning_rate(self.latent_policy_optimizer)
        losses = self._imitate_videos(imitation_steps, self.latent_policy_optimizer)
        self._record_mean("train/imitation_loss", losses)

    def _finetune(self, replay_buffer: WindowReplayBuffer, gradient_steps: int, batch_size: int) -> None:
        """p and d learn from steps with actions what a latent action does (L_ft)."""
        self._set_finetune_learning_rates()
        idm_learns, _, world_model_learns, encoder_learns = (group["lr"] > 0 for group in self.finetune_optimizer.param_groups)
        self.policy.set_training_mode(True)
        self.policy.encoder.requires_grad_(encoder_learns)
        self.policy.idm.requires_grad_(idm_learns).train(idm_learns)
        self.policy.action_decoder.requires_grad_(True)
        self.policy.world_model.requires_grad_(world_model_learns)  # else w tells p what is wrong, and stays
        self.policy.world_model.train(world_model_learns or "world_model_batch_statistics" in self.literal)

        compute_loss = self._compiled(self._latent_dynamics, joins_kernels=True)

        def update(frames: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
            with self._autocast():
                latent_actions, dynamics_loss = compute_loss(frames, self.world_model_coef > 0)
                action_loss, score = self.policy.action_loss(self.policy.standardized(latent_actions), actions)
            optimize(self.finetune_optimizer, action_loss + self.world_model_coef * dynamics_loss)
            if "double_codebook_update" in self.literal:
                self.policy.idm.quantizer(latent_actions.detach())
            return action_loss.detach(), dynamics_loss.detach(), score

        rates = [group["lr"] for group in self.finetune_optimizer.param_groups]
        graphed_update = self._graphed("finetune", update, *rates, batch_size, self.world_model_coef, self.dynamics_pad)
        records = [graphed_update(*replay_buffer.sample(batch_size)) for _ in range(gradient_steps)]
        self.policy.encoder.requires_grad_(False)
        self.policy.action_decoder.requires_grad_(False)  # it tells pi what is wrong, and stays
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self._record_mean("train/action_loss", [action_loss for action_loss, _, _ in records])
        score_name = "train/action_accuracy" if self.policy.is_discrete else "train/action_r2"
        self._record_mean(score_name, [score for _, _, score in records])
        if self.world_model_coef > 0:
            self._record_mean("train/dynamics_loss", [dynamics_loss for _, dynamics_loss, _ in records])

    def _set_finetune_learning_rates(self) -> None:
        """Of p, d, w and f now; those at 0 are frozen, so that the optimizer meets no gradient of theirs."""
        given = (self.idm_learning_rate, self.action_decoder_learning_rate, self.world_model_learning_rate)
        schedules = (FloatSchedule(rate if callable(rate) else float(rate)) for rate in given)  # SB3 knows none of NumPy's
        rates = [schedule(self._current_progress_remaining) for schedule in schedules]
        rates.append(rates[0] if "online" in self.tune_encoder else 0.0)
        for group, rate in zip(self.finetune_optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _latent_dynamics(self, frames: th.Tensor, with_world_model: bool = True) -> tuple[th.Tensor, th.Tensor]:
        """z and L_la of windows, each shifted as a whole, so that what moves in it does not change; without w, L_la is 0."""
        if self.dynamics_pad:
            frames = random_shift(frames.flatten(1, 2).float(), self.dynamics_pad).view(frames.shape)
        if with_world_model:
            return self.policy.latent_dynamics(frames, self.commitment_coef)
        latent_actions = self.policy.latent_actions(self.policy.encode(frames))
        return latent_actions, latent_actions.new_zeros(())

    def _imitate_videos(
        self,
        n_steps: int,
        optimizer: th.optim.Optimizer,
        progress_bar: bool = False,
        log: Callable[[int, list[th.Tensor]], None] | None = None,
        with_actions: bool = True,
    ) -> list[th.Tensor]:
        """
        Clone the latent actions that p reads in the videos (L_bc): ||pi(s_t) - z_t||^2, z as d meets it.

        p and d do not change meanwhile, so each window that will be drawn is labelled once, before.

        :param log: called after each step with their number so far and all losses
        :param with_actions: d has learned, and may tell what latent actions mean
        :return: the loss of each step
        """
        if n_steps == 0:
            return []
        indices = self.videos.sample_indices(n_steps * self.imitation_batch_size)
        windows, positions = np.unique(indices, return_inverse=True)
        labels = self.policy.standardized(self._label_videos(windows))
        self.policy.keep_video_latents(labels)
        indices, positions = indices.reshape(n_steps, -1), to_device(positions.reshape(n_steps, -1), self.device)
        compute_loss = self._compiled(self._imitation_loss)
        action_coef = self.action_imitation_coef if with_actions else 0.0

        def update(observations: th.Tensor, labels: th.Tensor) -> tuple[th.Tensor]:
            with self._autocast():
                loss = compute_loss(observations, labels, action_coef)
            optimize(optimizer, loss)
            self._average_latent_policy()
            return (loss.detach(),)

        rate, batch_size = optimizer.param_groups[0]["lr"], self.imitation_batch_size
        kept = (optimizer, rate, batch_size, action_coef, self.policy_tau, self.imitation_pad)
        graphed_update = self._graphed("imitate", update, *kept)
        losses: list[th.Tensor] = []
        for step in self._pretraining_steps(n_steps, "imitation", progress_bar):
            losses += graphed_update(self.videos.observations(indices[step]), labels[positions[step]])
            if log is not None:
                log(step + 1, losses)
        return losses

    def _average_latent_policy(self) -> None:
        """The pi that acts follows the pi that learns."""
        newest, average = self.policy.latent_policy, self.policy.latent_policy_average
        fused_polyak_update(newest.parameters(), average.parameters(), self.policy_tau)
        polyak_update(newest.buffers(), average.buffers(), 1)  # such as a BatchNorm's statistics, which are averages already

    def _imitation_loss(self, observations: th.Tensor, labels: th.Tensor, action_coef: float) -> th.Tensor:
        return self.policy.imitation_loss(self._shifted_imitation(observations), labels, action_coef)

    def _shifted_imitation(self, observations: th.Tensor) -> th.Tensor:
        """What the pi that learns makes of o_t, shifted."""
        return self.policy.imitate(random_shift(observations.float(), self.imitation_pad), self.policy.latent_policy)

    def _label_videos(self, indices: np.ndarray) -> th.Tensor:
        """
        The latent actions z (len(indices), latent_dim) of these windows of the videos, without gradient.

        What windows have in common is encoded once, which saves most where ``indices`` are sorted and dense.
        """
        encode, read = self._compiled(self.policy.encode), self._compiled(self.policy.latent_actions)
        n_at_once = N_ENCODED_TOGETHER if self.device.type == "cuda" else N_AT_ONCE
        labels: list[th.Tensor] = []
        with th.no_grad(), self._autocast():
            for windows in np.split(indices, range(N_ENCODED_TOGETHER, len(indices), N_ENCODED_TOGETHER)):
                numbers, positions = np.unique(self.videos.frame_numbers(windows), return_inverse=True)
                pictures = self.videos.observations_at(self._filled_up(numbers, n_at_once))
                # Channels last in memory, as convolutions give and take them
                features = th.cat([encode(chunk).movedim(1, -1) for chunk in pictures.split(n_at_once)])
                positions = self._filled_up(positions.reshape(len(windows), -1), n_at_once)
                chunks = np.split(positions, range(n_at_once, len(positions), n_at_once))
                labels.append(th.cat([read(gather_rows(features, chunk).movedim(-1, 2)) for chunk in chunks])[: len(windows)])
        return th.cat(labels)

    def _filled_up(self, items: np.ndarray, size: int) -> np.ndarray:
        """From the first of them, to chunks of one size: for another, code is compiled anew, and a GPU chooses kernels."""
        n_items = math.ceil(len(items) / size) * size
        return np.resize(items, (n_items, *items.shape[1:])) if self.compile or self.device.type == "cuda" else items

    def align(
        self,
        transitions: Iterable[tuple[np.ndarray, np.ndarray]],
        gradient_steps: int = 1_000,
        imitation_steps: int = 10_000,
        n_rounds: int = 10,
        progress_bar: bool = False,
    ) -> "BCVLR":
        """
        The online stage without an environment: transitions with actions, an expert's or others', take the rollouts' place.

        :param transitions: episodes, each observations (T + 1, *observation_shape) uint8 and the actions (T, ...) between them
        :param gradient_steps: of p and d, in all
        :param imitation_steps: of pi, in all
        :param n_rounds: p and d, then pi, take turns so many times
        :param progress_bar: show one
        :raises ValueError: there are no videos, or episodes of other shapes or actions than the environment's
        """
        self._prepare_to_learn()
        check_whole(0, gradient_steps=gradient_steps, imitation_steps=imitation_steps)
        check_whole(n_rounds=n_rounds)
        replay_buffer = self._store(transitions)
        if not self.pretrained:
            self.pretrain(progress_bar)
        self._start_log("align")
        for turn in self._pretraining_steps(n_rounds, "alignment", progress_bar):
            self._update_current_progress_remaining(turn, max(1, n_rounds - 1))
            share = slice(turn, None, n_rounds)
            self._update(replay_buffer, len(range(gradient_steps)[share]), self.batch_size, len(range(imitation_steps)[share]))
            self.logger.dump(turn + 1)
        return self

    def _store(self, transitions: Iterable[tuple[np.ndarray, np.ndarray]]) -> WindowReplayBuffer:
        """A replay buffer that these episodes do not quite fill; the frame that ends one is an end without an action."""
        episodes = [self._checked(f"Episode {number}", episode) for number, episode in enumerate(transitions)]
        if not episodes:
            raise ValueError("There is no transition to align with: pass episodes of (observations, actions).")
        replay_buffer = WindowReplayBuffer(
            sum(len(observations) for observations, _ in episodes) + 1,
            self.observation_space,
            self.action_space,
            self.device,
            **self.replay_buffer_kwargs,
        )
        for observations, actions in episodes:
            last = len(actions)
            for step in range(last + 1):
                now, then = observations[step][None], observations[min(step + 1, last)][None]
                action = actions[min(step, last - 1)][None]
                replay_buffer.add(now, then, action, np.zeros(1), np.array([step == last]), [{}])
        return replay_buffer

    def _checked(self, name: str, episode: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Observations and actions of an episode as rollouts give them."""
        assert self.observation_space.shape is not None and self.action_space.shape is not None
        if len(episode) != 2:
            raise ValueError(f"{name} has {len(episode)} parts, expected (observations, actions). A single one: [episode].")
        observations, actions = map(np.asarray, episode)
        if observations.dtype != np.uint8:
            raise ValueError(f"{name} has observations of {observations.dtype}, expected uint8 from 0 to 255.")
        if observations.ndim == 1 + len(self.observation_space.shape):
            observations = maybe_transpose(observations, self.observation_space)
        n_actions = len(actions)
        observations_shape = (n_actions + 1, *self.observation_space.shape)
        actions_shape = (n_actions, *self.action_space.shape)
        if n_actions == 0 or observations.shape != observations_shape or actions.size != math.prod(actions_shape):
            raise ValueError(
                f"{name} has observations of shape {observations.shape} and actions of shape {actions.shape}, expected "
                f"{observations_shape} and {actions_shape}: at least one action, and one observation more than actions."
            )
        given = actions.reshape(actions_shape)
        actions = given.astype(self.action_space.dtype)
        is_cut = self.policy.is_discrete and (actions != given).any()  # 1.7 is no action
        if is_cut or not all(map(self.action_space.contains, actions)):
            raise ValueError(
                f"{name} has actions from {given.min()} to {given.max()}, expected those of the environment: "
                f"{self.action_space}."
            )
        return observations, self.policy.scale_action(actions) if isinstance(self.action_space, spaces.Box) else actions

    def _optimizer(self, optimizer_class: type[th.optim.Adam], parameters: Iterable[Any], learning_rate: float = 1e-3) -> Any:
        """Its steps can become part of a ``GraphedStep``, wherever a saved model goes on."""
        return optimizer_class(parameters, lr=learning_rate, fused=True, capturable=True)

    def _compiled(self, function: Callable[..., Any], joins_kernels: bool = False) -> Callable[..., Any]:
        """
        :param joins_kernels: several that do not depend on each other may become one; for what has hundreds of short ones
        """
        if not self.compile:
            return function
        # Trying several layouts of each kernel may take longer than the best one saves.
        options: dict[str, Any] = {"triton.autotune_pointwise": False, "combo_kernels": joins_kernels}
        compiled = th.compile(function, dynamic=False, options=options)
        # Unasked, PyTorch traces anew in each run what has autograd functions of one's own, though it tells them apart.
        setting = "autograd_cache_allow_custom_autograd_functions"
        return functorch_config.patch(setting, True)(compiled) if hasattr(functorch_config, setting) else compiled

    def _graphed(self, name: str, step: Callable[..., tuple[th.Tensor, ...]], *kept: Any) -> GraphedStep:
        """
        ``step`` to be recorded, or the recording of an earlier round where nothing has changed of what one keeps.

        :param kept: what ``step`` takes from elsewhere than tensors, such as learning rates
        """
        kept = (*kept, self.commitment_coef, self.mixed_precision, self.compile)
        if name not in self._graphed_steps or self._graphed_steps[name][0] != kept:
            self._graphed_steps[name] = kept, GraphedStep(step, self.device)
        return self._graphed_steps[name][1]

    def _autocast(self) -> th.autocast:
        enabled = multiplies_bfloat16(self.device) if self.mixed_precision is None else bool(self.mixed_precision)
        return th.autocast(self.device.type, th.bfloat16, enabled=enabled)

    def _log_pretraining(self, name: str, losses: list[th.Tensor], n_steps: int, step: int) -> None:
        """Mean of the last losses of a stage of ``n_steps``, every ``log_steps`` of them."""
        n_last = log_steps(n_steps)
        if len(losses) % n_last == 0:
            self._record_mean(f"pretrain/{name}", losses[-n_last:])
            self._dump_pretraining(step)

    def _dump_pretraining(self, step: int) -> None:
        """A line of the log, with what SB3 tells online; ``step`` counts on from stage to stage."""
        self.logger.record("time/time_elapsed", int((time.time_ns() - self.start_time) / 1e9), exclude="tensorboard")
        self.logger.record("pretrain/n_updates", step, exclude="tensorboard")
        self.logger.dump(step)

    def _record_mean(self, name: str, values: list[th.Tensor]) -> None:
        if values:
            self.logger.record(name, th.stack(values).mean().item())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphed_steps": {}}  # which know the networks of this model, not a copy's

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto") -> None:
        """SB3's; learning rates stay this model's, whatever the saved optimizers had."""
        if isinstance(load_path_or_dict, dict):
            load_path_or_dict = deepcopy(load_path_or_dict)  # PyTorch's optimizers would go on with its very tensors
        super().set_parameters(load_path_or_dict, exact_match, device)
        if self.pretrained:  # whatever a pre-training of this model was interrupted in
            self._n_stages_finished = 0
            self.policy.idm.quantizer.bypass = not self.policy.idm.quantizer.enabled
        self._set_finetune_learning_rates()
        self._graphed_steps.clear()  # they know the optimizers' tensors of before

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "finetune_optimizer",
            "latent_policy_optimizer",
            "_random_action",
            "_graphed_steps",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "finetune_optimizer", "latent_policy_optimizer"], []
