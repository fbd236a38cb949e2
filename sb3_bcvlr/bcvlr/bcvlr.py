"""BCV-LR: behavior cloning from videos via latent representations (Liu, Li, Zhao; NeurIPS 2025; arXiv 2512.21586)."""

from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch.nn import functional as F

from sb3_bcvlr.bcvlr.policies import BCVLRPolicy
from sb3_bcvlr.common.contrastive import InfoNCE
from sb3_bcvlr.common.video_imitation import VideoImitationAlgorithm, optimize
from sb3_bcvlr.common.window_replay_buffer import WindowReplayBuffer

LOG_STEPS = 100  # gradient steps between two lines of the pre-training log


class BCVLR(VideoImitationAlgorithm):
    """
    BCV-LR: learn a policy from expert videos and some 100k environment steps, without rewards and without expert actions.

    Offline, an encoder f, a latent-action predictor p with a vector quantizer, a world model w and a latent policy pi are
    pre-trained on the videos. Online, p and an action decoder d learn from the agent's own steps what a latent action does,
    and pi clones the latent actions that p reads in the videos. The policy is a = d(pi(f(o))).
    The defaults are a small set for CPUs and quick runs; ``hyperparams.get("bcvlr", "procgen")`` is the paper's.

    Official code: https://github.com/liuxin0824/BCV-LR-discrete. What differs from it: docs/modules/bcvlr.md.

    :param env: a VecEnv, a Gymnasium environment or its id; observations are uint8 images, actions discrete
    :param videos: a ``VideoDataset`` or anything that it takes: a folder, files, arrays; without actions
    :param policy: "CnnPolicy" or a class
    :param learning_rate: of pi online; a float or a schedule of the remaining progress
    :param encoder_learning_rate: of f, offline
    :param dynamics_learning_rate: of p and w, offline
    :param imitation_learning_rate: of pi, offline
    :param idm_learning_rate: of p, online
    :param action_decoder_learning_rate: of d, online
    :param n_history: frames before o_t+1 that p sees; w sees them too, pi sees o_t alone
    :param buffer_size: environment steps that the replay buffer holds
    :param learning_starts: environment steps with random actions at the start; training begins when more have been made
    :param rollout_steps: environment steps, of all environments together, between two calls of ``train``
    :param train_freq: the same in SB3's way, counted in each environment; overrules ``rollout_steps``
    :param pretrain_encoder_steps: gradient steps of f, offline
    :param pretrain_dynamics_steps: gradient steps of p and w, offline; 0 leaves the latent-action stage out
    :param quantizer_warmup_steps: how many of these leave z continuous: w first finds out that z is worth listening to (ours)
    :param pretrain_imitation_steps: gradient steps of pi, offline
    :param gradient_steps: of p and d after each rollout
    :param imitation_steps: gradient steps of pi after each rollout
    :param batch_size: windows of the replay in a step of p and d
    :param encoder_batch_size: windows of the videos in a step of f
    :param dynamics_batch_size: in a step of p and w
    :param imitation_batch_size: in a step of pi
    :param tau: of the momentum encoder
    :param target_update_interval: steps of f between two updates of the momentum encoder
    :param world_model_coef: beta, the weight of the latent-action loss online
    :param commitment_coef: weight of the quantizer's commitment loss
    :param max_grad_norm: of p and w, offline
    :param feature_loss_class: trains f; called with the encoder, the observation's shape and ``literal``
    :param feature_loss_kwargs: further arguments of it
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
        idm_learning_rate: float = 5e-4,
        action_decoder_learning_rate: float = 1e-3,
        n_history: int = 2,
        buffer_size: int = 100_000,
        learning_starts: int = 1_000,
        rollout_steps: int = 4_096,
        train_freq: int | tuple[int, str] | None = None,
        pretrain_encoder_steps: int = 500,
        pretrain_dynamics_steps: int = 2_000,
        quantizer_warmup_steps: int = 1_500,
        pretrain_imitation_steps: int = 1_000,
        gradient_steps: int = 60,
        imitation_steps: int = 400,
        batch_size: int = 64,
        encoder_batch_size: int = 64,
        dynamics_batch_size: int = 64,
        imitation_batch_size: int = 64,
        tau: float = 0.05,
        target_update_interval: int = 2,
        world_model_coef: float = 1.0,
        commitment_coef: float = 0.05,
        max_grad_norm: float = 2.0,
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
        super().__init__(
            env=env,
            videos=videos,
            policy=policy,
            learning_rate=learning_rate,
            n_history=n_history,
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
        self.encoder_learning_rate = encoder_learning_rate
        self.dynamics_learning_rate = dynamics_learning_rate
        self.imitation_learning_rate = imitation_learning_rate
        self.idm_learning_rate = idm_learning_rate
        self.action_decoder_learning_rate = action_decoder_learning_rate
        self.pretrain_encoder_steps = pretrain_encoder_steps
        self.pretrain_dynamics_steps = pretrain_dynamics_steps
        self.quantizer_warmup_steps = quantizer_warmup_steps
        self.pretrain_imitation_steps = pretrain_imitation_steps
        self.imitation_steps = imitation_steps
        self.encoder_batch_size = encoder_batch_size
        self.dynamics_batch_size = dynamics_batch_size
        self.imitation_batch_size = imitation_batch_size
        self.target_update_interval = target_update_interval
        self.world_model_coef = world_model_coef
        self.commitment_coef = commitment_coef
        self.max_grad_norm = max_grad_norm
        self.feature_loss_class = feature_loss_class
        self.feature_loss_kwargs = feature_loss_kwargs or {}
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.encoder.requires_grad_(not self.pretrained)
        self.policy.world_model.requires_grad_(not self.pretrained)  # online, w tells p what is wrong and stays as it is
        # The optimizers of the online stage, which a saved model takes along; those of pretrain() end with it.
        self.finetune_optimizer = th.optim.Adam(
            [
                {"params": self.policy.idm.parameters(), "lr": self.idm_learning_rate},
                {"params": self.policy.action_decoder.parameters(), "lr": self.action_decoder_learning_rate},
            ],
            fused=True,
        )
        self.latent_policy_optimizer = th.optim.Adam(
            self.policy.latent_policy.parameters(), lr=self.lr_schedule(1), fused=True
        )

    def pretrain(self, progress_bar: bool = False) -> "BCVLR":
        """
        Offline stage: f, then p and w, then pi, from the videos alone and without an environment step.

        :param progress_bar: show one for each of them
        :raises ValueError: the model has no videos
        """
        self._require_videos()
        self._start_pretraining_log()
        self.policy.set_training_mode(True)
        self._pretrain_encoder(progress_bar)
        self._pretrain_dynamics(progress_bar)
        optimizer = th.optim.AdamW(self.policy.latent_policy.parameters(), lr=self.imitation_learning_rate, fused=True)
        losses = self._imitate_videos(self.pretrain_imitation_steps, optimizer, progress_bar)
        for end in range(LOG_STEPS, len(losses) + 1, LOG_STEPS):
            self.logger.record("pretrain/imitation_loss", th.stack(losses[end - LOG_STEPS : end]).mean().item())
            self.logger.dump(self.pretrain_encoder_steps + self.pretrain_dynamics_steps + end)
        self.pretrained = True
        return self

    def _pretrain_encoder(self, progress_bar: bool) -> None:
        """f by its feature loss (Eq. 1). From here on f is frozen."""
        self.policy.encoder.requires_grad_(True)
        shape = self.observation_space.shape
        feature_loss: Any = self.feature_loss_class(
            self.policy.encoder, shape, literal=self.literal, **self.feature_loss_kwargs
        )
        feature_loss.to(self.device)
        optimizer = th.optim.Adam(
            [p for p in feature_loss.parameters() if p.requires_grad], lr=self.encoder_learning_rate, fused=True
        )
        losses = []
        for step in self._pretraining_steps(self.pretrain_encoder_steps, "encoder", progress_bar):
            videos = self.videos.sample(self.encoder_batch_size)
            loss = feature_loss(self.policy.scale(videos.frames))
            optimize(optimizer, loss)
            if (step + 1) % self.target_update_interval == 0:
                feature_loss.update_target(self.tau)
            losses.append(loss.detach())
            if (step + 1) % LOG_STEPS == 0:
                self.logger.record("pretrain/encoder_loss", th.stack(losses[-LOG_STEPS:]).mean().item())
                self.logger.dump(step + 1)
        self.policy.encoder.requires_grad_(False)
        if self.policy.standardize:
            self.policy.fit_feature_statistics(self.videos.sample(self.encoder_batch_size).frames)

    def _pretrain_dynamics(self, progress_bar: bool) -> None:
        """p, its quantizer and w by the latent-action loss (L_la)."""
        if self.policy.standardize:
            self.policy.rescale_idm(self._label_videos(self.videos.sample_indices(1024)))
        self.policy.world_model.requires_grad_(True)
        parameters = [*self.policy.idm.parameters(), *self.policy.world_model.parameters()]
        optimizer = th.optim.AdamW(parameters, lr=self.dynamics_learning_rate, fused=True)
        for step in self._pretraining_steps(self.pretrain_dynamics_steps, "latent actions", progress_bar):
            self.policy.idm.quantizer.bypass = step < self.quantizer_warmup_steps
            videos = self.videos.sample(self.dynamics_batch_size)
            _, loss = self.policy.latent_dynamics(videos.frames, self.commitment_coef)
            optimize(optimizer, loss, self.max_grad_norm)
            if (step + 1) % LOG_STEPS == 0:
                fresh_videos = self.videos.sample(self.dynamics_batch_size)
                for name, value in self.policy.dynamics_diagnostics(fresh_videos.frames).items():
                    self.logger.record(f"pretrain/{name}", value)
                self.logger.dump(self.pretrain_encoder_steps + step + 1)
        self.policy.idm.quantizer.bypass = False
        self.policy.world_model.requires_grad_(False)
        if self.policy.standardize:
            self.policy.fit_latent_statistics(self._label_videos(self.videos.sample_indices(4096)))

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Online stage, after each rollout: p and d learn from the rollouts (L_ft), pi from the videos (L_bc)."""
        self.policy.set_training_mode(True)
        self.policy.world_model.train("world_model_batch_statistics" in self.literal)
        self._update_learning_rate(self.latent_policy_optimizer)
        action_losses, dynamics_losses, accuracies = [], [], []
        for _ in range(gradient_steps):
            replay_data = self.replay_buffer.sample(batch_size)
            latent_actions, dynamics_loss = self.policy.latent_dynamics(replay_data.frames, self.commitment_coef)
            action_loss, accuracy = self.policy.action_loss(latent_actions, replay_data.actions)
            optimize(self.finetune_optimizer, action_loss + self.world_model_coef * dynamics_loss)
            if "double_codebook_update" in self.literal:
                self.policy.idm.quantizer(latent_actions.detach())
            action_losses.append(action_loss.detach())
            dynamics_losses.append(dynamics_loss.detach())
            accuracies.append(accuracy)
        imitation_losses = self._imitate_videos(self.imitation_steps, self.latent_policy_optimizer)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values in (
            ("action_loss", action_losses),
            ("action_accuracy", accuracies),
            ("dynamics_loss", dynamics_losses),
            ("imitation_loss", imitation_losses),
        ):
            if values:
                self.logger.record(f"train/{name}", th.stack(values).mean().item())
        self.dump_logs()

    def _imitate_videos(self, n_steps: int, optimizer: th.optim.Optimizer, progress_bar: bool = False) -> list[th.Tensor]:
        """
        Clone the latent actions that p reads in the videos (L_bc): ||pi(s_t) - z_t||^2, z as d meets it.

        p does not change meanwhile, so each window that will be drawn is labelled once, before.
        """
        if n_steps == 0:
            return []
        indices = self.videos.sample_indices(n_steps * self.imitation_batch_size)
        windows, positions = np.unique(indices, return_inverse=True)
        labels = self.policy.standardized(self._label_videos(windows))
        indices, positions = indices.reshape(n_steps, -1), positions.reshape(n_steps, -1)
        losses = []
        for step in self._pretraining_steps(n_steps, "imitation", progress_bar):
            features = self.policy.encode(self.videos.observations(indices[step]))
            loss = F.mse_loss(self.policy.latent_policy(features), labels[positions[step]])
            optimize(optimizer, loss)
            losses.append(loss.detach())
        return losses

    def _label_videos(self, indices: np.ndarray) -> th.Tensor:
        """The latent actions z (len(indices), latent_dim) of these windows of the videos, without gradient."""
        with th.no_grad():
            return th.cat(
                [
                    self.policy.latent_actions(self.policy.encode(self.videos.windows(chunk).frames))
                    for chunk in np.array_split(indices, np.ceil(len(indices) / 512))
                ]
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "finetune_optimizer", "latent_policy_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "finetune_optimizer", "latent_policy_optimizer"], []
