"""The networks of BCV-LR: no optimizer, no loss. With the arguments of the ``paper`` preset each equals the authors' own."""

import math
from collections.abc import Sequence

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_bcvlr.common.vector_quantizer import VectorQuantizer


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), with ``hidden_channels`` in between."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden_channels, channels, 3, padding=1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Encoder(nn.Module):
    """
    f: picture to feature map, a few convolutions without pooling.

    :param observation_shape: (C, H, W)
    :param channels: one 3x3 convolution for each entry, with a ReLU between two of them
    :param strides: of these convolutions
    :param n_residual_blocks: how many follow
    :param final_relu: features that are not negative, as the authors' on DMControl
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        n_residual_blocks: int = 0,
        final_relu: bool = False,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        n_input = observation_shape[0]
        for n_output, stride in zip(channels, strides, strict=True):
            layers += [nn.ReLU()] if layers else []
            layers.append(nn.Conv2d(n_input, n_output, 3, stride=stride, padding=1))
            n_input = n_output
        layers += [ResidualBlock(n_input, n_input) for _ in range(n_residual_blocks)]
        layers += [nn.ReLU()] if final_relu else []
        self.net = nn.Sequential(*layers)
        self.apply(orthogonal_init)
        with th.no_grad():
            self.feature_shape = tuple(self.net(th.zeros(1, *observation_shape)).shape[1:])

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """(B, C, H, W) in [-0.5, 0.5] to (B, *feature_shape)."""
        return self.net(observations)


class ImpalaCNN(nn.Module):
    """IMPALA's residual network: each stage halves the map. The trunk of both p and pi."""

    def __init__(self, input_shape: Sequence[int], channels: Sequence[int], hidden_dim: int):
        super().__init__()
        layers: list[nn.Module] = []
        n_input = input_shape[0]
        for n_output in channels:
            layers += [nn.Conv2d(n_input, n_output, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [ResidualBlock(n_output, n_output), ResidualBlock(n_output, n_output)]
            n_input = n_output
        self.convolutions = nn.Sequential(*layers)
        with th.no_grad():
            n_flat = self.convolutions(th.zeros(1, *input_shape)).numel()
        self.linear = nn.Linear(n_flat, hidden_dim)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return F.relu(self.linear(F.relu(self.convolutions(x).flatten(1))))


class InverseDynamicsModel(nn.Module):
    """
    p: reads the latent action in the features of a window. The world model's loss applies its ``quantizer``, not p itself.

    :param feature_shape: (C, H, W) of one feature map
    :param n_history: frames before o_t+1 in a window
    :param quantizer: has the ``latent_dim`` that p predicts
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        n_history: int,
        channels: Sequence[int],
        hidden_dim: int,
        quantizer: VectorQuantizer,
    ):
        super().__init__()
        n_channels, height, width = feature_shape
        self.trunk = ImpalaCNN(((n_history + 1) * n_channels, height, width), channels, hidden_dim)
        self.head = nn.Linear(hidden_dim, quantizer.latent_dim)
        self.quantizer = quantizer

    def forward(self, features: th.Tensor) -> th.Tensor:
        """(B, n_history + 1, C, H, W) to z (B, latent_dim), not quantized; float32 under autocast too."""
        return self.head(self.trunk(features.flatten(1, 2))).float()


class LatentPolicy(nn.Module):
    """
    pi: the latent action that the expert would take, from the features of o_t alone. IMPALA's network, as on Procgen.

    :param feature_shape: (C, H, W)
    :param latent_dim: of z
    :param channels: stages, each halving the feature map
    :param hidden_dim: features before the head
    """

    def __init__(self, feature_shape: Sequence[int], latent_dim: int, channels: Sequence[int], hidden_dim: int):
        super().__init__()
        self.trunk = ImpalaCNN(feature_shape, channels, hidden_dim)
        self.head = nn.Linear(hidden_dim, latent_dim)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """(B, C, H, W) to (B, latent_dim)."""
        return self.head(self.trunk(features))


class DrQLatentPolicy(nn.Sequential):
    """
    pi in the shape of DrQ-v2's actor (Yarats et al. 2021), as on DMControl: a narrow normalized layer, then an MLP.

    :param feature_shape: (C, H, W)
    :param latent_dim: of z
    :param feature_dim: of the narrow layer
    :param hidden_dim: of the two that follow
    """

    def __init__(self, feature_shape: Sequence[int], latent_dim: int, feature_dim: int = 50, hidden_dim: int = 1024):
        super().__init__(
            nn.Flatten(),
            nn.Linear(math.prod(feature_shape), feature_dim),
            nn.LayerNorm(feature_dim),
            nn.Tanh(),
            nn.Linear(feature_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, latent_dim),
        )


class ActionDecoder(nn.Sequential):
    """d: latent actions (B, latent_dim) to logits of the actions, or to actions in [-1, 1] not yet clipped (B, n_outputs)."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int], n_outputs: int):
        layers: list[nn.Module] = []
        for n_input, n_output in zip((latent_dim, *hidden_dims), hidden_dims, strict=False):
            layers += [nn.Linear(n_input, n_output), nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden_dims[-1], n_outputs))


class WorldModel(nn.Module):
    """
    w: features of the past and a latent action to the features of o_t+1, by a U-Net.

    The latent action enters in two places: tiled over the input, and at the 1x1 bottleneck in place of its skip connection.

    :param feature_shape: (C, H, W); a map that is no square of a power of two is padded inside
    :param n_history: feature maps of the past
    :param latent_dim: size of the quantized latent action
    :param base_channels: width of the first block, doubled by each that follows
    :param zero_start: the output starts at 0, for a model of changes
    :param bounded_output: end in tanh / 2, as the authors do, although features are not bounded
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        n_history: int,
        latent_dim: int,
        base_channels: int,
        zero_start: bool = False,
        bounded_output: bool = False,
    ):
        super().__init__()
        n_features, height, width = feature_shape
        n_levels = max(1, math.ceil(math.log2(max(height, width))) - 1)  # down to 2x2, which a convolution makes 1x1
        side = 2 ** (n_levels + 1)
        self.padding = (0, side - width, 0, side - height)
        self.bounded_output = bounded_output
        n_past = n_history * n_features
        widths = [base_channels * 2**level for level in range(n_levels)]

        def block(convolution: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(convolution, nn.BatchNorm2d(channels), ResidualBlock(channels, channels // 2))

        down_inputs = (n_past + latent_dim, *widths[:-1])
        self.down_blocks = nn.ModuleList(
            block(nn.Conv2d(n_input, n_output, 3, padding=1), n_output)
            for n_input, n_output in zip(down_inputs, widths, strict=True)
        )
        self.bottleneck = nn.Conv2d(widths[-1], 2 * widths[-1], 2)
        up_inputs = (2 * widths[-1] + latent_dim, *(2 * n_skip for n_skip in reversed(widths)))
        up_outputs = (*reversed(widths), base_channels)
        self.up_blocks = nn.ModuleList(
            block(nn.ConvTranspose2d(n_input, n_output, 2, stride=2), n_output)
            for n_input, n_output in zip(up_inputs, up_outputs, strict=True)
        )
        last = nn.Conv2d(base_channels, n_features, 1)
        if zero_start:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.output = nn.Sequential(
            nn.Conv2d(base_channels + n_past, base_channels, 3, padding=1),
            ResidualBlock(base_channels, base_channels // 2),
            nn.ReLU(),
            last,
        )

    def forward(self, past_features: th.Tensor, quantized_actions: th.Tensor) -> th.Tensor:
        """(B, n_history, C, H, W), the newest last, and (B, latent_dim) to the predicted features (B, C, H, W)."""
        *_, height, width = past_features.shape
        past = F.pad(past_features.flatten(1, 2), self.padding, mode="replicate")
        actions = quantized_actions[:, :, None, None]
        x = th.cat((past, actions.expand(-1, -1, *past.shape[-2:])), dim=1)
        skips = []
        for block in self.down_blocks:
            x = F.relu(F.max_pool2d(block(x), 2))
            skips.append(x)
        x, skip = self.bottleneck(x), actions
        for block in self.up_blocks:
            x = F.relu(block(th.cat((x, skip), dim=1)))
            skip = skips.pop() if skips else past
        output = self.output(th.cat((x, skip), dim=1))[..., :height, :width]
        return th.tanh(output) / 2 if self.bounded_output else output


def orthogonal_init(layer: nn.Module) -> None:
    """Orthogonal weights (gain 1 for linear layers, sqrt(2) for convolutions), no bias: the start of f and its loss."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.orthogonal_(layer.weight, gain=1.0 if isinstance(layer, nn.Linear) else math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
