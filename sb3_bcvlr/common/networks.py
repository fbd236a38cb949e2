"""The networks of BCV-LR: no optimizer, no loss. With the arguments of the ``paper`` preset each equals the authors' own."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_bcvlr.common import kernels
from sb3_bcvlr.common.checks import check_sizes, check_whole
from sb3_bcvlr.common.kernels import fill_up
from sb3_bcvlr.common.vector_quantizer import VectorQuantizer

TENSOR_CORE_CHANNELS = 8  # a GPU convolves quickly what has a multiple of them


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), with ``hidden_channels`` in between."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden_channels, channels, 3, padding=1)
        self.folded = FoldedConvolutions(4) if hidden_channels % TENSOR_CORE_CHANNELS else None

    def forward(self, x: th.Tensor) -> th.Tensor:
        if self.folded is not None and self.folded.suits(x):
            return self.folded([self], x)
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FoldedConvolutions(nn.Module):
    """
    Does what ``layers`` of few channels do, with n neighbours of a row folded into channels, of which a GPU likes many; in
    compiled code by kernels of our own.

    Most of the wider weights are 0, but tensor cores that multiply 16 channels idle longer than that takes
    (docs/benchmarks/speed.md). Channels last in memory, folding moves nothing.

    :param n: pixels that become one
    """

    taps: th.Tensor

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.register_buffer("taps", fold_taps(n).float().flatten(1), persistent=False)

    def suits(self, x: th.Tensor) -> bool:
        """Whether x (B, C, H, W) lies on a GPU and its rows divide into pixels of n."""
        return is_on_gpu(x) and not x.shape[3] % self.n

    def forward(self, layers: Sequence[nn.Module], x: th.Tensor) -> th.Tensor:
        """
        :param layers: 3x3 convolutions of stride 1 and padding 1, ``ResidualBlock`` of them, and what works on single numbers
        :param x: (B, C, H, W), W a multiple of ``n``
        :return: ``layers(x)``, channels last in memory
        """
        convolutions = [layer for part in layers for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        if kernels.suits(x, [n for layer in convolutions for n in layer.weight.shape[:2]]):
            return convolve_narrow(layers, x)
        x = x.permute(0, 2, 3, 1).unflatten(2, (-1, self.n)).flatten(3).permute(0, 3, 1, 2)  # pixels of n
        for layer in layers:
            if isinstance(layer, ResidualBlock):
                x = x + self._convolve(layer.conv2, F.relu(self._convolve(layer.conv1, F.relu(x))))
            else:
                x = self._convolve(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
        return self._unfold(x)

    def _unfold(self, x: th.Tensor) -> th.Tensor:
        return x.permute(0, 2, 3, 1).unflatten(3, (self.n, -1)).flatten(2, 3).permute(0, 3, 1, 2)

    def _convolve(self, convolution: nn.Conv2d, folded: th.Tensor) -> th.Tensor:
        n_output, n_input = convolution.weight.shape[:2]
        assert convolution.bias is not None
        weight = (convolution.weight.unsqueeze(4) * self.taps).sum(3)  # each to where it acts
        weight = weight.view(n_output, n_input, 3, self.n, self.n, 3).permute(3, 0, 2, 5, 4, 1)
        weight = weight.reshape(self.n * n_output, 3, 3, self.n * n_input)
        n_missing = -folded.shape[1] % TENSOR_CORE_CHANNELS
        folded, weight = fill_up(folded, 0, 0, 0, 0, 0, n_missing), fill_up(weight, 0, n_missing)
        return F.conv2d(folded, weight.permute(0, 3, 1, 2), convolution.bias.repeat(self.n), padding=1)


def convolve_narrow(layers: Sequence[nn.Module], x: th.Tensor) -> th.Tensor:
    """``FoldedConvolutions.forward`` by kernels of our own, which want a multiple of 4 channels: the rest are 0."""

    def parameters(convolution: nn.Conv2d) -> tuple[th.Tensor, th.Tensor]:
        weight, bias = convolution.weight, convolution.bias
        assert bias is not None
        n_output, n_input = weight.shape[:2]
        return fill_up(weight, 0, 0, 0, 0, 0, -n_input % 4, 0, -n_output % 4), fill_up(bias, 0, -n_output % 4)

    n_channels = x.shape[1]
    maps = fill_up(x.to(kernels.working_dtype(x)).permute(0, 2, 3, 1), 0, -n_channels % 4).contiguous()
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            maps = kernels.NarrowResidualBlock.apply(maps, *parameters(layer.conv1), *parameters(layer.conv2))
        elif isinstance(layer, nn.Conv2d):
            n_channels = layer.out_channels
            maps = kernels.NarrowConvolution.apply(maps, *parameters(layer))
        else:
            maps = layer(maps)
    return maps[..., :n_channels].permute(0, 3, 1, 2)


def fold_taps(n: int) -> th.Tensor:
    """
    What a row of a 3x3 convolution becomes between pixels that hold n.

    :return: (3, n, n, 3), whether it is this tap: tap, pixel of the output, pixel of the input, its place: before, here, after
    """
    tap, place, pixel = (th.arange(size) for size in (3, 3, n))
    return pixel[:, None] + n * (place - 1) == pixel[:, None, None] + tap[:, None, None, None] - 1


class Encoder(nn.Module):
    """
    f: picture to feature map, a few convolutions without pooling.

    :param observation_shape: (C, H, W)
    :param channels: one 3x3 convolution for each entry, with a ReLU between two of them
    :param strides: of these convolutions
    :param n_residual_blocks: how many follow
    :param final_relu: features that are not negative, as the authors' on DMControl
    :raises ValueError: there are not as many strides as channels, or none
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
        if not 0 < len(channels) == len(strides):
            raise ValueError(
                f"An encoder's channels are {list(channels)} and its strides {list(strides)}, expected one of each for every "
                "convolution, of which there is at least one."
            )
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

        is_narrow = set(strides) == {1} and max(channels) <= 16
        self.folded = FoldedConvolutions(4) if is_narrow else None

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """(B, C, H, W) in [-0.5, 0.5] to (B, *feature_shape)."""
        if self.folded is not None and self.folded.suits(observations):
            return self.folded(self.net, observations)
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
        """(B, C, H, W) to (B, hidden_dim)."""
        layers = iter(self.convolutions)
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and is_on_gpu(x):
                next(layers)  # its pooling
                x = convolve_and_pool(layer, x)
            else:
                x = layer(x)
        return F.relu(self.linear(F.relu(x.flatten(1))))


def max_pool(x: th.Tensor, size: int) -> th.Tensor:
    """``F.max_pool2d`` of (B, C, H, W) with a stride of 2, and a padding of 1 for a size of 3."""
    if is_on_gpu(x) and th.compiler.is_compiling():
        return MaxPool.apply(x, size)
    return F.max_pool2d(x, size, stride=2, padding=(size - 1) // 2)


class MaxPool(th.autograd.Function):
    """
    ``max_pool`` for ``torch.compile`` on GPUs. In the gradient that it makes by itself each number looks for its place where
    windows overlap, and three passes put it there where they do not (docs/benchmarks/speed.md).

    A pixel of a window is 4 * row + column, so that one outside, of row or column -1, is none of the others.
    """

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, size: int) -> th.Tensor:
        """
        :param x: (B, C, H, W); H and W even for a size of 2
        :param size: 2 or 3
        """
        ctx.size, ctx.padding = x.shape[2:], (size - 1) // 2
        height, width = (-(-side // 2) for side in ctx.size)
        padded = fill_up(x, *(ctx.padding,) * 4, value=-math.inf)
        largest = padded[:, :, : 2 * height : 2, : 2 * width : 2]
        chosen = th.zeros_like(largest, dtype=th.int8)
        for row, column in itertools.islice(itertools.product(range(size), range(size)), 1, None):
            values = padded[:, :, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2]
            is_larger = values > largest
            largest = th.where(is_larger, values, largest)
            chosen = th.where(is_larger, 4 * row + column, chosen)
        ctx.save_for_backward(chosen)
        return largest

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor, None]:
        """2x2 pixels of the input have a window of their own; where windows overlap, three more, below and to the right."""
        (chosen,) = ctx.saved_tensors
        height, width = chosen.shape[2:]
        beyond = (0, ctx.padding, 0, ctx.padding)
        padded = fill_up(gradients[0], *beyond), fill_up(chosen, *beyond, value=-1)
        pixel = th.arange(2, device=chosen.device, dtype=th.int8) + ctx.padding
        parts = []  # (B, height, 2, width, 2, C): channels last, as the kernel is to write them
        for below, right in itertools.product(range(1 + ctx.padding), repeat=2):
            window = (..., slice(below, below + height), None, slice(right, right + width), None)
            gradient, place = (maps[window].permute(0, 2, 3, 4, 5, 1) for maps in padded)
            pixel_of_window = 4 * (pixel - 2 * below)[:, None, None, None] + (pixel - 2 * right)[:, None]
            parts.append(th.where(place == pixel_of_window, gradient, 0))
        blocks = functools.reduce(th.add, parts)
        return blocks.flatten(3, 4).flatten(1, 2)[:, : ctx.size[0], : ctx.size[1]].permute(0, 3, 1, 2), None


def convolve_and_pool(convolution: nn.Conv2d, x: th.Tensor) -> th.Tensor:
    """
    ``max_pool(convolution(x), 3)`` of a 3x3 convolution with a padding of 1, for GPUs: max(x) + b is max(x + b), and the
    smaller map takes a fourth of the time to add b to.
    """
    assert convolution.bias is not None
    pooled = max_pool(F.conv2d(x, convolution.weight, padding=1), 3)
    return pooled + convolution.bias.to(pooled.dtype)[:, None, None]


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
        check_sizes(channels=channels)
        check_whole(hidden_dim=hidden_dim)
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
            *create_mlp(feature_dim, latent_dim, [hidden_dim, hidden_dim]),
        )


class ActionDecoder(nn.Sequential):
    """d: latent actions (B, latent_dim) to logits of the actions, or to actions in [-1, 1] not yet clipped (B, n_outputs)."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int], n_outputs: int):
        super().__init__(*create_mlp(latent_dim, n_outputs, list(hidden_dims)))


class WorldModel(nn.Module):
    """
    w: features of the past and a latent action to the features of o_t+1, by a U-Net.

    The latent action enters in two places: tiled over the input, and at the 1x1 bottleneck in place of its skip connection.

    :param feature_shape: (C, H, W); halved until at most 3 pixels of the shorter side are left, and padded so that
        every halving is exact
    :param n_history: feature maps of the past
    :param latent_dim: size of the quantized latent action
    :param base_channels: width of the first block, doubled by each that follows
    :param zero_start: the output starts at 0, for a model of changes
    :param bounded_output: end in tanh / 2, as the authors do, although features are not bounded
    """

    places: th.Tensor

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
        n_levels = max(1, math.ceil(math.log2(min(height, width) / 3)))
        scale = 2**n_levels
        smallest = (-(-height // scale), -(-width // scale))  # which a convolution makes 1x1
        padded = (smallest[0] * scale, smallest[1] * scale)
        self.padding = (0, padded[1] - width, 0, padded[0] - height)
        self.bounded_output = bounded_output
        n_past = n_history * n_features
        widths = [base_channels * 2**level for level in range(n_levels)]
        self.register_buffer("places", tile_places(*padded), persistent=False)

        def block(convolution: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(convolution, nn.BatchNorm2d(channels), ResidualBlock(channels, channels // 2))

        down_inputs = (n_past + latent_dim, *widths[:-1])
        self.down_blocks = nn.ModuleList(
            block(nn.Conv2d(n_input, n_output, 3, padding=1), n_output)
            for n_input, n_output in zip(down_inputs, widths, strict=True)
        )
        self.bottleneck = nn.Conv2d(widths[-1], 2 * widths[-1], smallest)
        up_inputs = (2 * widths[-1] + latent_dim, *(2 * n_skip for n_skip in reversed(widths)))
        up_outputs = (*reversed(widths), base_channels)
        up_sizes = (smallest, *((2, 2) for _ in range(n_levels)))
        self.up_blocks = nn.ModuleList(
            block(nn.ConvTranspose2d(n_input, n_output, size, stride=size), n_output)
            for n_input, n_output, size in zip(up_inputs, up_outputs, up_sizes, strict=True)
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
        past = fill_up(past_features.flatten(1, 2), *self.padding, mode="replicate")
        actions = quantized_actions[:, :, None, None]
        x = past
        skips: list[th.Tensor] = []
        block: Any  # an nn.Sequential, of which PyTorch's annotations know nothing here
        for block in self.down_blocks:
            convolution, normalization, residual_block = block
            x = convolution(x) if skips else convolve_tiled(convolution, past, actions, self.places)
            x = F.relu(max_pool(residual_block(normalization(x)), 2))
            skips.append(x)
        # To a single pixel this is a linear layer, and faster as such.
        x = F.linear(x.flatten(1), self.bottleneck.weight.flatten(1), self.bottleneck.bias)[:, :, None, None]
        skip = actions
        for block in self.up_blocks:
            convolution, normalization, residual_block = block
            x = grow_pixels(convolution, th.cat((x, skip), dim=1))
            x = F.relu(residual_block(normalization(x)))
            skip = skips.pop() if skips else past
        output = self.output(th.cat((x, skip), dim=1))[..., :height, :width]
        return th.tanh(output) / 2 if self.bounded_output else output


def grow_pixels(convolution: nn.ConvTranspose2d, x: th.Tensor) -> th.Tensor:
    """
    ``convolution`` of (B, C, H, W), with a stride as large as its kernel: each pixel becomes a block of its own by a product,
    which is faster as such.

    :return: (B, C_out, H * rows, W * columns), channels last in memory
    """
    assert convolution.bias is not None
    n_samples, _, height, width = x.shape
    rows, columns = convolution.kernel_size
    weight = convolution.weight.permute(0, 2, 3, 1)  # (C, rows, columns, C_out)
    blocks = (x.permute(0, 2, 3, 1) @ weight.flatten(1)).view(n_samples, height, width, rows, columns, -1)
    grown = blocks.transpose(2, 3).reshape(n_samples, height * rows, width * columns, -1)
    return (grown + convolution.bias.to(grown.dtype)).permute(0, 3, 1, 2)


def convolve_tiled(convolution: nn.Conv2d, maps: th.Tensor, vectors: th.Tensor, places: th.Tensor) -> th.Tensor:
    """
    ``convolution(cat(maps, vectors tiled over all pixels))``, with 3x3 weights and a zero padding of 1, without the tiling.

    What a constant plane adds is one value inside and others along each border and in each corner: as on a map of 4x4 pixels.

    :param maps: (B, C, H, W)
    :param vectors: (B, D, 1, 1)
    :param places: of ``tile_places``
    """
    n_channels, size = maps.shape[1], maps.shape[-2:]
    weight = convolution.weight
    small = F.conv2d(vectors.expand(-1, -1, 4, 4), weight[:, n_channels:], convolution.bias, padding=1)
    tile = places @ small.flatten(2).transpose(1, 2)  # (B, H * W, C_out), the memory format of the convolutions
    return F.conv2d(maps, weight[:, :n_channels], padding=1) + tile.transpose(1, 2).unflatten(2, size)


def tile_places(height: int, width: int) -> th.Tensor:
    """(height * width, 16) of 0 and 1: the pixel of a 4x4 map that stands at the same borders."""
    rows, columns = (F.one_hot(th.tensor([0, *[1] * (side - 2), 3]), 4) for side in (height, width))
    return th.einsum("yi,xj->yxij", rows, columns).reshape(height * width, 16).float()


def is_on_gpu(x: th.Tensor) -> bool:
    """Where other ways to the same numbers are faster."""
    return x.is_cuda


def orthogonal_init(layer: nn.Module) -> None:
    """Orthogonal weights (gain 1 for linear layers, sqrt(2) for convolutions), no bias: the start of f and its loss."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.orthogonal_(layer.weight, gain=1.0 if isinstance(layer, nn.Linear) else math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
