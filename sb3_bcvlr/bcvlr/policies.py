"""The networks of BCV-LR in one SB3 policy, and what each loss is. When a loss is used stands in ``bcvlr.py``."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn import functional as F

from sb3_bcvlr.common.checks import check_sizes, check_whole
from sb3_bcvlr.common.networks import ActionDecoder, Encoder, InverseDynamicsModel, LatentPolicy, WorldModel
from sb3_bcvlr.common.vector_quantizer import VectorQuantizer, perplexity

QUANTIZER_KWARGS: dict[str, Any] = {"code_dim": 4, "n_latents": 4, "decay": 0.99, "revive_codes": True}
N_LATENTS_KEPT = 4096  # of the videos, for pi's neighbours
FAR = 1e9  # squared, beyond any of them
LATENT_POLICY_KWARGS: dict[str, Any] = {"channels": (48,), "hidden_dim": 256}


class BCVLRPolicy(BasePolicy):
    """
    a = d(pi(f(o))), with p and w beside it for training (paper, Sec. 3).

    :param observation_space: images (C, H, W) uint8, or stacks of them
    :param action_space: Discrete, or a Box with finite bounds
    :param lr_schedule: SB3's, unused: the algorithm owns the optimizers
    :param n_history: frames before o_t+1 that p sees
    :param n_neighbors: d decodes so many latent actions of the videos, the nearest to pi's; 0: pi's itself
    :param encoder_channels: a convolution of f for each
    :param encoder_strides: of these
    :param encoder_residual_blocks: of f, after them
    :param encoder_final_relu: features of f are not negative
    :param idm_channels: stages of p, each halving the feature map
    :param idm_hidden_dim: features before p's head
    :param quantizer_kwargs: of ``VectorQuantizer``, over ``QUANTIZER_KWARGS``
    :param world_model_channels: width of w's first block
    :param residual_world_model: w predicts the change since o_t
    :param latent_policy_class: pi; called with the shape of the features and the size of z
    :param latent_policy_kwargs: further arguments of it; for ``LatentPolicy``, over ``LATENT_POLICY_KWARGS``
    :param share_encoder: pi sees the features of p's f. False: it sees through an encoder of its own, which starts as f and
        learns with pi (ours)
    :param action_decoder_dims: hidden layers of d
    :param standardize: give features and latent actions zero mean and unit variance, by statistics that are
        taken once, when f and when p are pre-trained
    :param frame_differences: p and w see the newest frame and the changes that led to it, instead of the frames
    :param literal: the authors' literal behaviours, see ``BCVLR``
    :raises ValueError: a size is no whole number from 1 on
    """

    pretrained: th.Tensor
    feature_mean: th.Tensor
    feature_std: th.Tensor
    change_std: th.Tensor
    video_latents: th.Tensor
    n_same_before: th.Tensor
    latent_mean: th.Tensor
    latent_std: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule | None = None,
        n_history: int = 2,
        n_neighbors: int = 0,
        encoder_channels: Sequence[int] = (16, 24),
        encoder_strides: Sequence[int] = (2, 2),
        encoder_residual_blocks: int = 0,
        encoder_final_relu: bool = False,
        idm_channels: Sequence[int] = (24, 48),
        idm_hidden_dim: int = 128,
        quantizer_kwargs: dict[str, Any] | None = None,
        world_model_channels: int = 16,
        residual_world_model: bool = True,
        latent_policy_class: type[nn.Module] = LatentPolicy,
        latent_policy_kwargs: dict[str, Any] | None = None,
        share_encoder: bool = False,
        action_decoder_dims: Sequence[int] = (192, 128, 64),
        standardize: bool = True,
        frame_differences: bool = True,
        literal: frozenset[str] = frozenset(),
    ):
        check_sizes(
            encoder_channels=encoder_channels,
            encoder_strides=encoder_strides,
            idm_channels=idm_channels,
            action_decoder_dims=action_decoder_dims,
        )
        check_whole(idm_hidden_dim=idm_hidden_dim, world_model_channels=world_model_channels)
        check_whole(0, encoder_residual_blocks=encoder_residual_blocks)
        self._constructor_arguments = {
            name: value for name, value in locals().items() if name not in ("self", "lr_schedule", "__class__")
        }
        super().__init__(observation_space, action_space, squash_output=True)  # continuous actions come as [-1, 1]
        self.n_history = n_history
        self.n_neighbors = n_neighbors
        self.standardize = standardize
        self.frame_differences = frame_differences
        self.share_encoder = share_encoder
        self.residual_world_model = residual_world_model
        assert observation_space.shape is not None  # checked by the algorithm
        self.encoder = Encoder(
            observation_space.shape, encoder_channels, encoder_strides, encoder_residual_blocks, encoder_final_relu
        )
        self.encoder.requires_grad_(False)  # until a stage trains it
        feature_shape = self.encoder.feature_shape
        quantizer = VectorQuantizer(zero_counts="zero_counts" in literal, **QUANTIZER_KWARGS | (quantizer_kwargs or {}))
        latent_dim = quantizer.latent_dim
        self.idm = InverseDynamicsModel(feature_shape, n_history, idm_channels, idm_hidden_dim, quantizer)
        self.world_model = WorldModel(
            feature_shape, n_history, latent_dim, world_model_channels, residual_world_model, "bounded_features" in literal
        )
        defaults = LATENT_POLICY_KWARGS if latent_policy_class is LatentPolicy else {}
        self.latent_policy = latent_policy_class(feature_shape, latent_dim, **defaults | (latent_policy_kwargs or {}))
        if not share_encoder:
            self.latent_policy = nn.Sequential(deepcopy(self.encoder).requires_grad_(), self.latent_policy)
        self.latent_policy_average = deepcopy(self.latent_policy).requires_grad_(False)  # the pi that acts
        self.rollout_decode: Callable[[th.Tensor], tuple[th.Tensor, ...]] | None = None  # while the algorithm acts
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        n_outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else get_action_dim(action_space)
        self.action_decoder = ActionDecoder(latent_dim, action_decoder_dims, n_outputs)
        self.register_buffer("pretrained", th.tensor(False))  # set by the algorithm
        self.register_buffer("feature_mean", th.zeros(feature_shape[0], 1, 1))
        self.register_buffer("feature_std", th.ones(feature_shape[0], 1, 1))
        self.register_buffer("change_std", th.ones(feature_shape[0], 1, 1))
        self.register_buffer("video_latents", th.zeros(N_LATENTS_KEPT, latent_dim))
        self.register_buffer("n_same_before", th.zeros(N_LATENTS_KEPT))  # of these, where videos are so few that they repeat
        self.register_buffer("latent_mean", th.zeros(latent_dim))
        self.register_buffer("latent_std", th.ones(()))

    # What the paper calls s, z and their losses.

    @staticmethod
    def scale(frames: th.Tensor) -> th.Tensor:
        """Pixels, 0 to 255, to [-0.5, 0.5]; under autocast in its type, to which convolutions would bring them anyway."""
        device = frames.device.type
        dtype = th.get_autocast_dtype(device) if th.is_autocast_enabled(device) else th.float32
        return (frames.to(dtype) - 127.5) / 255  # bfloat16 holds the difference exactly

    def encode(self, frames: th.Tensor, encoder: nn.Module | None = None) -> th.Tensor:
        """
        s = f(o) of frames (..., C, H, W), 0 to 255, standardized; without gradient while f is frozen.

        :param encoder: another one, that started as f
        """
        features = (encoder or self.encoder)(self.scale(frames.flatten(0, -4)))
        if self.standardize:
            # Some versions of PyTorch want an eps above 0; this one is lost in rounding.
            features = F.batch_norm(features, self.feature_mean.flatten(), self.feature_std.flatten().square(), eps=1e-30)
        return features.unflatten(0, frames.shape[:-3])

    def latent_actions(self, features: th.Tensor) -> th.Tensor:
        """z = p(s_t-1, s_t, s_t+1), neither quantized nor standardized; features (B, n_history + 1, C, H, W)."""
        return self.idm(self._differences(features))

    def standardized(self, latent_actions: th.Tensor) -> th.Tensor:
        """The scale on which pi and d meet z."""
        return (latent_actions - self.latent_mean) / self.latent_std

    def imitate(self, observations: th.Tensor, latent_policy: nn.Module) -> th.Tensor:
        """
        pi(f(o)) of observations (B, C, H, W), 0 to 255: the z (B, latent_dim) that the expert would mean, standardized.

        :param latent_policy: the pi that learns, or its average
        """
        if self.share_encoder:
            return latent_policy(self.encode(observations))
        encoder, head = latent_policy.children()
        return head(self.encode(observations, encoder))

    def predict_features(self, past_features: th.Tensor, quantized_actions: th.Tensor) -> th.Tensor:
        """w(s_t, z_q), the features expected at t+1; past features (B, n_history, C, H, W)."""
        output = self.world_model(self._differences(past_features), quantized_actions)
        return past_features[:, -1] + self.change_std * output if self.residual_world_model else output

    def prediction_loss(self, past_features: th.Tensor, quantized_actions: th.Tensor, features: th.Tensor) -> th.Tensor:
        """||w(s_t, z_q) - s_t+1||^2, in units of a frame's usual change: 1 is what copying s_t costs, where standardized."""
        predicted = self.predict_features(past_features, quantized_actions)
        return ((predicted - features.detach()) / self.change_std).square().mean()

    def latent_dynamics(self, frames: th.Tensor, commitment_coef: float) -> tuple[th.Tensor, th.Tensor]:
        """
        Latent-action loss (paper, L_la): ||w(s_t, z_q) - s_t+1||^2, and the commitment of z to its code.

        :param frames: windows (B, n_history + 1, C, H, W), 0 to 255
        :return: z (B, latent_dim) and the loss
        """
        features = self.encode(frames)
        latent_actions = self.latent_actions(features)
        quantized, _, commitment_loss = self.idm.quantizer(latent_actions)
        prediction_loss = self.prediction_loss(features[:, :-1], quantized, features[:, -1])
        return latent_actions, prediction_loss + commitment_coef * commitment_loss

    def action_loss(self, latent_actions: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Error of d(z) in the actions taken (paper, first term of L_ft): cross-entropy, or mean squared error if continuous.

        :param latent_actions: z (B, latent_dim), standardized
        :param actions: (B, 1) discrete, or (B, action_dim) scaled to [-1, 1]
        :return: the loss, and a score that is 1 at best: the accuracy, or the explained share of the variance (R2)
        """
        predicted = self.action_decoder(latent_actions)
        if self.is_discrete:
            targets = actions.squeeze(1).long()
            return F.cross_entropy(predicted, targets), (predicted.argmax(1) == targets).float().mean()
        loss = F.mse_loss(predicted, actions)
        return loss, 1 - loss.detach() / (actions.var(0, unbiased=False).mean() + 1e-8)

    def imitation_loss(self, imitated: th.Tensor, latent_actions: th.Tensor, action_coef: float) -> th.Tensor:
        """
        ||pi(s_t) - z_t||^2 (paper, L_bc). With an ``action_coef``: in units of z's variance, and with so much of the error in
        what d makes of it: cross-entropy to what d makes of z_t, or mean squared error if continuous (ours).

        :param imitated: pi(s_t) (B, latent_dim), standardized
        :param latent_actions: z_t (B, latent_dim), standardized
        """
        squared_error = F.mse_loss(imitated, latent_actions)
        if action_coef == 0:
            return squared_error
        meant, decoded = self.action_decoder(latent_actions), self.action_decoder(imitated)
        action_error = F.cross_entropy(decoded, meant.softmax(1)) if self.is_discrete else F.mse_loss(decoded, meant)
        variance = latent_actions.var(0, unbiased=False).mean() + 1e-8
        return squared_error / variance + action_coef * action_error

    @th.no_grad()
    def dynamics_diagnostics(self, frames: th.Tensor) -> dict[str, float]:
        """
        Whether latent actions say what happens: errors of w, and how many codes are in use.

        :param frames: windows (B, n_history + 1, C, H, W)
        :return: ``world_model_error``; its ratio to the error of copying the newest frame and to its own error with the
            latent actions of other windows (both should be well below 1); ``code_use`` in [0, 1]; ``perplexity``
        """
        was_training = self.training
        self.set_training_mode(False)
        features = self.encode(frames)
        quantized, indices, _ = self.idm.quantizer(self.latent_actions(features))
        errors = self.world_model_errors(features, quantized)
        code_use, code_perplexity = perplexity(indices, self.idm.quantizer.codebook_size)
        self.set_training_mode(was_training)
        return {**errors, "code_use": code_use.item(), "perplexity": code_perplexity.item()}

    @th.no_grad()
    def world_model_errors(self, features: th.Tensor, actions: th.Tensor) -> dict[str, float]:
        """
        :param features: windows of them (B, n_history + 1, C, H, W)
        :param actions: (B, latent_dim), what w reads with them
        :return: the errors of ``dynamics_diagnostics``
        """
        past, future = features[:, :-1], features[:, -1]
        error, shuffled = (self.prediction_loss(past, each, future).item() for each in (actions, actions.roll(1, 0)))
        copying = F.mse_loss(past[:, -1] / self.change_std, future / self.change_std).item()
        return {"world_model_error": error, "error_to_copying": error / copying, "error_to_shuffled": error / shuffled}

    def start_latent_policy(self) -> None:
        """An encoder of pi's own starts as f is now."""
        if not self.share_encoder:
            for latent_policy in (self.latent_policy, self.latent_policy_average):
                encoder, _ = latent_policy.children()
                encoder.load_state_dict(self.encoder.state_dict())

    def keep_video_latents(self, latent_actions: th.Tensor) -> None:
        """
        Let pi's neighbours be among these z (B, latent_dim), standardized: evenly spread ones if they are too many; again and
        again if they are too few, where each is a neighbour once before any is twice.
        """
        n_kept = min(len(latent_actions), N_LATENTS_KEPT)
        spread = th.linspace(0, len(latent_actions) - 1, n_kept, device=latent_actions.device).round().long()
        places = th.arange(N_LATENTS_KEPT, device=latent_actions.device)
        self.video_latents.copy_(latent_actions[spread[places % n_kept]])
        self.n_same_before.copy_(places // n_kept)

    # Statistics that are taken once, where ``standardize`` asks for them.

    def fit_feature_statistics(self, frames: th.Tensor) -> None:
        """
        Standardize from now on: zero mean and unit variance of each channel, and unit variance of its changes in time.

        :param frames: windows (B, n_history + 1, C, H, W)
        """
        self.feature_mean.zero_()
        self.feature_std.fill_(1)
        features = self.encode(frames)
        changes = features[:, 1:] - features[:, :-1]
        self.feature_mean.copy_(features.mean((0, 1, 3, 4), keepdim=True)[0, 0])
        self.feature_std.copy_(features.std((0, 1, 3, 4), keepdim=True)[0, 0] + 1e-6)
        self.change_std.copy_(changes.square().mean((0, 1, 3, 4), keepdim=True)[0, 0].sqrt() / self.feature_std + 1e-6)

    def rescale_idm(self, latent_actions: th.Tensor) -> None:
        """Give p zero mean and unit variance where it gave these z (B, latent_dim): w would not hear a new p."""
        std = latent_actions.std(0) + 1e-6
        with th.no_grad():
            self.idm.head.bias.copy_((self.idm.head.bias - latent_actions.mean(0)) / std)
            self.idm.head.weight.div_(std[:, None])

    def fit_latent_statistics(self, latent_actions: th.Tensor) -> None:
        """Standardize z (B, latent_dim) from now on, by one variance: those that hardly vary say little and stay small."""
        self.latent_mean.copy_(latent_actions.mean(0))
        self.latent_std.copy_(latent_actions.var(0).mean().sqrt() + 1e-6)

    def _differences(self, features: th.Tensor) -> th.Tensor:
        """(B, n, C, H, W): the changes up to the newest map, in their own units, then the newest map itself."""
        maps = features.unbind(1)
        if self.frame_differences:
            changes = [((after - before) / self.change_std).to(features.dtype) for before, after in pairwise(maps)]
            maps = (*changes, maps[-1])
        # Joined as channels, so that p and w, which see them as such, need not copy them into channels-last order.
        return th.cat(maps, dim=1).unflatten(1, (len(maps), -1))

    # SB3's face.

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**self._constructor_arguments, "n_neighbors": self.n_neighbors}  # which may have been set since

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._predict(observation, deterministic)

    def set_training_mode(self, mode: bool) -> None:
        """SB3's. ``predict`` asks for it each time, and to walk through all networks takes a fifth of its time on a CPU."""
        if any(module.training != mode for module in (self, *self.children())):
            super().set_training_mode(mode)

    def decode(self, observations: th.Tensor) -> th.Tensor:
        """
        a = d(pi(f(o))) of (B, C, H, W) uint8: logits (B, n_actions), or actions (B, action_dim) around [-1, 1].

        Where the expert may have done either of two things, pi means what lies between their z, which d has never met. So it
        decodes what the expert did mean nearby, and the policy is the mean of that (ours).
        """
        latent_actions = self.imitate(observations, self.latent_policy_average)
        if self.n_neighbors == 0:
            return self.action_decoder(latent_actions)
        distances = self.video_latents.square().sum(1) - 2 * latent_actions @ self.video_latents.T  # squared, but for |z|^2
        nearest = (distances + FAR * self.n_same_before).topk(self.n_neighbors, largest=False).indices
        decoded = self.action_decoder(self.video_latents[nearest])  # (B, n_neighbors, n_outputs)
        return decoded.log_softmax(-1).logsumexp(1) if self.is_discrete else decoded.mean(1)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """SB3's, whose rounding may end beside the bounds."""
        assert isinstance(self.action_space, spaces.Box), self.action_space
        return np.clip(super().unscale_action(scaled_action), self.action_space.low, self.action_space.high)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """a = d(pi(f(o))). Discrete: sampled from the softmax unless ``deterministic``. Continuous: in [-1, 1], no noise."""
        assert isinstance(observation, th.Tensor), type(observation)
        decoded = self.decode(observation) if self.rollout_decode is None else self.rollout_decode(observation)[0]
        if self.is_discrete:
            return CategoricalDistribution(decoded.shape[1]).proba_distribution(decoded).get_actions(deterministic)
        return decoded.clamp(-1, 1)
