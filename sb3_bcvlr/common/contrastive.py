"""The feature losses that train the encoder f on the videos alone. Either suits any observations and actions."""

import math
from copy import deepcopy
from typing import ClassVar

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_bcvlr.common.augmentations import random_shift, resampled_shift
from sb3_bcvlr.common.devices import fused_polyak_update
from sb3_bcvlr.common.networks import Encoder, FoldedConvolutions, ResidualBlock, orthogonal_init


class FlattenPixels(nn.Module):
    """(B, C, H, W) to (B, H * W * C), as they lie in memory."""

    def forward(self, features: th.Tensor) -> th.Tensor:
        return features.permute(0, 2, 3, 1).flatten(1)


class FeatureLoss(nn.Module):
    """
    What both losses share: s projected by a linear map, momentum copies of encoder and projector, u. Call it with windows
    (B, n_history + 1, C, H, W) in [-0.5, 0.5], or with those observations of theirs that ``window`` tells, to get the loss.

    :param encoder: f, trained in place
    :param projection_dim: size of the projected s
    :param hidden_dim: of u, an MLP with one hidden layer
    :param pad: largest shift in pixels
    :param literal: "resampled_shift" shifts as the authors do
    """

    window: ClassVar[slice]

    def __init__(self, encoder: Encoder, projection_dim: int, hidden_dim: int, pad: int, literal: frozenset[str]):
        super().__init__()
        self.pad = pad
        self.shift = resampled_shift if "resampled_shift" in literal else random_shift
        projector = nn.Sequential(FlattenPixels(), nn.Linear(math.prod(encoder.feature_shape), projection_dim))
        self.predictor = nn.Sequential(*create_mlp(projection_dim, projection_dim, [hidden_dim]))
        for module in (projector, self.predictor):
            module.apply(orthogonal_init)
        self.online = nn.Sequential(encoder, projector)
        self.target = deepcopy(self.online).requires_grad_(False)

    def update_target(self, tau: float) -> None:
        fused_polyak_update(self.online.parameters(), self.target.parameters(), tau)


class InfoNCE(FeatureLoss):
    """
    Contrast of two random shifts of one frame against the rest of the batch, and reconstruction of the frame (paper, Eq. 1):

        -log softmax_j[ u(s_i)^T W s'_j ]_i + reconstruction_coef * ||v(s_i) - aug(o_i)||^2

    with s and s' projected by linear maps, s' by the momentum copies of encoder and projector.

    :param observation_shape: (C, H, W)
    :param reconstruction_coef: alpha; 0 leaves v out
    :param literal: "frozen_reconstruction" leaves v at its random start and "resampled_shift" shifts as the authors do
    """

    window = slice(0, 1)

    def __init__(
        self,
        encoder: Encoder,
        observation_shape: tuple[int, ...],
        projection_dim: int = 256,
        hidden_dim: int = 512,
        pad: int = 1,
        reconstruction_coef: float = 0.1,
        literal: frozenset[str] = frozenset(),
    ):
        super().__init__(encoder, projection_dim, hidden_dim, pad, literal)
        self.reconstruction_coef = reconstruction_coef
        self.bilinear = nn.Linear(projection_dim, projection_dim, bias=False)
        n_channels, *size = observation_shape
        scales = [math.ceil(n / n_features) for n, n_features in zip(size, encoder.feature_shape[1:], strict=True)]
        self.scale = scale = max(scales)  # 1 where f keeps the resolution, as in the paper
        self.reconstruction = nn.Sequential(
            nn.Conv2d(encoder.feature_shape[0], n_channels * scale**2, 3, padding=1),
            *([nn.PixelShuffle(scale)] if scale > 1 else []),
            ResidualBlock(n_channels, n_channels),
            ResidualBlock(n_channels, n_channels),
        )
        self.folded = FoldedConvolutions(16)
        for module in (self.bilinear, self.reconstruction):
            module.apply(orthogonal_init)
        self.reconstruction.requires_grad_("frozen_reconstruction" not in literal)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (B, n_history + 1, C, H, W) in [-0.5, 0.5]; the first frame of each window is used
        :return: loss, a scalar
        """
        views = self.shift(observations[:, 0], self.pad), self.shift(observations[:, 0], self.pad)
        encoder, projector = self.online
        features = encoder(views[0])
        predictions = self.predictor(projector(features))  # (B, projection_dim)
        with th.no_grad():
            targets = self.target(views[1])
        logits = predictions @ self.bilinear(targets).T  # (B, B), positives on the diagonal
        loss = F.cross_entropy(logits - logits.max(1, keepdim=True).values, th.arange(len(logits), device=logits.device))
        if self.reconstruction_coef:
            height, width = views[0].shape[-2:]
            reconstructions = self.reconstruct(features)[..., :height, :width]
            loss = loss + self.reconstruction_coef * F.mse_loss(reconstructions, views[0])
        return loss

    def reconstruct(self, features: th.Tensor) -> th.Tensor:
        """v(s), whose few channels a GPU handles best when pixels are folded into them."""
        n_before = 0 if self.scale == 1 else 2  # layers that have not all pixels yet
        pixels, layers = self.reconstruction[:n_before](features), self.reconstruction[n_before:]
        return self.folded(layers, pixels) if self.folded.suits(pixels) else layers(pixels)


class PrototypeLoss(FeatureLoss):
    """
    o_t must tell to which prototypes o_t+1 belongs (paper, Eq. 10; Proto-RL: Yarats et al. 2021):

        -y_t+1^T log softmax(C u(s_t) / T), y_t+1 = sinkhorn(C s'_t+1 / T)

    with the rows of C, u and s' of unit length, s and s' projected by linear maps, s' by the momentum copies.

    :param observation_shape: (C, H, W), unused
    :param n_prototypes: rows of C
    :param temperature: T
    :param n_sinkhorn_steps: alternations of :func:`sinkhorn`
    """

    window = slice(-2, None)

    def __init__(
        self,
        encoder: Encoder,
        observation_shape: tuple[int, ...],
        projection_dim: int = 128,
        hidden_dim: int = 512,
        n_prototypes: int = 512,
        temperature: float = 0.1,
        n_sinkhorn_steps: int = 3,
        pad: int = 4,
        literal: frozenset[str] = frozenset(),
    ):
        super().__init__(encoder, projection_dim, hidden_dim, pad, literal)
        self.temperature = temperature
        self.n_sinkhorn_steps = n_sinkhorn_steps
        self.prototypes = nn.Linear(projection_dim, n_prototypes, bias=False)
        self.prototypes.apply(orthogonal_init)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (B, n_history + 1, C, H, W) in [-0.5, 0.5]; the last two of each window are used
        :return: loss, a scalar
        """
        with th.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
            targets = F.normalize(self.target(self.shift(observations[:, -1], self.pad)), dim=1)
            # Detached, else autocast may reuse its copy of the weights, made without gradient, below.
            scores = F.linear(targets, self.prototypes.weight.detach())
            assignments = sinkhorn(scores / self.temperature, self.n_sinkhorn_steps)
        predictions = F.normalize(self.predictor(self.online(self.shift(observations[:, -2], self.pad))), dim=1)
        return F.cross_entropy(self.prototypes(predictions) / self.temperature, assignments)


def sinkhorn(scores: th.Tensor, n_steps: int) -> th.Tensor:
    """
    Soft assignments of samples to prototypes that use all prototypes about equally (SwAV: Caron et al. 2020, Sec. 3.1).

    :param scores: (B, n_prototypes)
    :return: the same shape, each sample's assignments summing to 1
    """
    weights = (scores - scores.max()).float().exp()
    weights /= weights.sum()
    n_samples, n_prototypes = weights.shape
    for _ in range(n_steps):
        weights /= weights.sum(0) * n_prototypes
        weights /= weights.sum(1, keepdim=True) * n_samples
    return weights * n_samples
