"""
A GPU kernel of our own, in Triton, which PyTorch brings along for GPUs: a 3x3 convolution of few channels and what follows it.

A GPU multiplies 16 channels about as fast as it reads and writes the maps, and each bias, ReLU or sum that follows is one more
pass over them. PyTorch and cuDNN join none of these with a convolution (docs/benchmarks/speed.md).
"""

import importlib.util
from typing import Any

import torch as th
from torch.nn.grad import conv2d_weight

HAS_TRITON = importlib.util.find_spec("triton") is not None  # not with every PyTorch
N_PIXELS = 4  # of a row, which the kernel handles as one
N_BLOCKS, N_WARPS = 128, 8  # of so many pixels, which a program handles, and by how many warps


def fold(maps: th.Tensor, n: int) -> th.Tensor:
    """(B, H, W, C) to (B, n * C, H, W / n), one pixel of a row after the other: a view."""
    return maps.unflatten(2, (-1, n)).flatten(3).permute(0, 3, 1, 2)


def fold_taps(n: int, device: th.device | None = None) -> th.Tensor:
    """
    What a row of a 3x3 convolution becomes between pixels that hold n.

    :return: (3, n, n, 3), whether it is this tap: tap, pixel of the output, pixel of the input, its place: before, here, after
    """
    tap, place, pixel = (th.arange(size, device=device) for size in (3, 3, n))
    return pixel[:, None] + n * (place - 1) == pixel[:, None, None] + tap[:, None, None, None] - 1


def _launch(
    x: th.Tensor,
    weight: th.Tensor,
    bias: th.Tensor | None = None,
    mask: th.Tensor | None = None,
    residual: th.Tensor | None = None,
    output: th.Tensor | None = None,
    rectified: th.Tensor | None = None,
) -> None:
    """
    output = x * weight + bias, or 0 of it where not mask > 0, + residual; rectified = ReLU(output).

    :param x: (B, H, W, C) contiguous, as all maps
    :param weight: of ``_block_weight``
    """
    from sb3_bcvlr.common.triton_convolution import convolve

    given = (x, weight, bias, mask, residual, output, rectified)
    assert all(tensor is None or tensor.is_contiguous() for tensor in given)
    n_samples, height, width, n_channels = x.shape
    n_blocks = n_samples * height * width // N_PIXELS
    maps = [x if map_ is None else map_ for map_ in (mask, residual, output, rectified)]
    convolve[(-(-n_blocks // N_BLOCKS),)](
        x,
        weight,
        x if bias is None else bias,
        *maps,
        n_blocks,
        height,
        width,
        n_channels,
        N_PIXELS,
        bias is not None,
        residual is not None,
        output is not None,
        rectified is not None,
        N_BLOCKS,
        num_warps=N_WARPS,
    )


@th.library.custom_op("sb3_bcvlr::residual_block", mutates_args=())
def _residual_block(
    x: th.Tensor,
    rectified: th.Tensor,
    weight1: th.Tensor,
    bias1: th.Tensor,
    weight2: th.Tensor,
    bias2: th.Tensor,
    is_last: bool,
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """x + conv(ReLU(conv(ReLU(x)))) from x and ReLU(x), its ReLU unless it is the last, and ReLU(conv(ReLU(x)))."""
    output, hidden = th.empty_like(x), th.empty_like(x)
    output_rectified = x.new_empty(0) if is_last else th.empty_like(x)
    _launch(rectified, weight1, bias1, rectified=hidden)
    _launch(hidden, weight2, bias2, residual=x, output=output, rectified=None if is_last else output_rectified)
    return output, output_rectified, hidden


@_residual_block.register_fake
def _(x: th.Tensor, *arguments: Any) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    return th.empty_like(x), x.new_empty(0) if arguments[-1] else th.empty_like(x), th.empty_like(x)


@th.library.custom_op("sb3_bcvlr::residual_block_backward", mutates_args=())
def _residual_block_backward(
    gradient: th.Tensor, rectified: th.Tensor, hidden: th.Tensor, weight1: th.Tensor, weight2: th.Tensor
) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """From the output's gradient those of x and of conv(ReLU(x)), and those of both weights, which cuDNN finds for blocks."""
    x_gradient, hidden_gradient = th.empty_like(gradient), th.empty_like(gradient)
    _launch(gradient, weight2, mask=hidden, output=hidden_gradient)
    _launch(hidden_gradient, weight1, mask=rectified, residual=gradient, output=x_gradient)
    n_channels = N_PIXELS * gradient.shape[3]
    wide1, wide2 = (
        conv2d_weight(fold(x, N_PIXELS), (n_channels, n_channels, 3, 3), fold(of_output, N_PIXELS), padding=1)
        for x, of_output in ((rectified, hidden_gradient), (hidden, gradient))
    )
    return x_gradient, hidden_gradient, wide1.contiguous(), wide2.contiguous()


@_residual_block_backward.register_fake
def _(gradient: th.Tensor, *_: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    n_channels = N_PIXELS * gradient.shape[3]
    wide1, wide2 = (gradient.new_empty(n_channels, n_channels, 3, 3) for _ in range(2))
    return th.empty_like(gradient), th.empty_like(gradient), wide1, wide2


class NarrowResidualBlock(th.autograd.Function):
    """
    ``networks.ResidualBlock`` with as many channels inside, on maps (B, H, W, C), by the kernel of this module:

        x, rectified = NarrowResidualBlock.apply(x, rectified, conv1.weight, conv1.bias, conv2.weight, conv2.bias, is_last)

    where ``rectified`` is ReLU(x), through which no gradient goes, before the block and after it; empty after the last.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: th.Tensor,
        rectified: th.Tensor,
        weight1: th.Tensor,
        bias1: th.Tensor,
        weight2: th.Tensor,
        bias2: th.Tensor,
        is_last: bool,
    ) -> tuple[th.Tensor, th.Tensor]:
        block_weight1, block_weight2 = (_block_weight(weight).to(x.dtype) for weight in (weight1, weight2))
        output, output_rectified, hidden = _residual_block(x, rectified, block_weight1, bias1, block_weight2, bias2, is_last)
        ctx.save_for_backward(rectified, hidden, weight1, weight2)
        ctx.mark_non_differentiable(output_rectified)
        return output, output_rectified

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor | None, ...]:
        rectified, hidden, *weights = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        transposed = (_block_weight(weight.flip(2, 3).transpose(0, 1)).to(gradient.dtype) for weight in weights)
        x_gradient, hidden_gradient, *wide = _residual_block_backward(gradient, rectified, hidden, *transposed)
        weight1, weight2 = (_narrow_weight(weight.float()) for weight in wide)
        bias1, bias2 = (of_output.sum((0, 1, 2), dtype=th.float32) for of_output in (hidden_gradient, gradient))
        return x_gradient, None, weight1, bias1, weight2, bias2, None


def _block_weight(weight: th.Tensor) -> th.Tensor:
    """
    The weights of a convolution as the kernel wants them.

    :param weight: (C_out, C_in, 3, 3)
    :return: (3 * (N_PIXELS + 2) * C_in, N_PIXELS * C_out): from three rows of a block's pixels and their neighbours to it
    """
    tap, to_pixel, from_pixel = (th.arange(n, device=weight.device) for n in (3, N_PIXELS, N_PIXELS + 2))
    is_tap = from_pixel == to_pixel[:, None] + tap[:, None, None]  # the first is the one before the block
    placed = (weight[..., None, None] * is_tap).sum(3)  # (C_out, C_in, 3, N_PIXELS, N_PIXELS + 2)
    return placed.permute(2, 4, 1, 3, 0).flatten(0, 2).flatten(1)


def _narrow_weight(wide: th.Tensor) -> th.Tensor:
    """
    The gradient of a convolution's weight, from that of the same convolution between blocks.

    :param wide: (N_PIXELS * C_out, N_PIXELS * C_in, 3, 3)
    :return: (C_out, C_in, 3, 3)
    """
    parts = wide.unflatten(1, (N_PIXELS, -1)).unflatten(0, (N_PIXELS, -1)).permute(1, 3, 4, 0, 2, 5)
    return (parts.unsqueeze(3) * fold_taps(N_PIXELS, wide.device)).sum((4, 5, 6))


def suits(x: th.Tensor) -> bool:
    """Whether the kernel takes x (B, H, W, C): few channels, bfloat16, a GPU, and compiled code, which needs Triton anyway."""
    is_narrow = x.shape[3] in (8, 16) and x.shape[2] % N_PIXELS == 0
    can_run = HAS_TRITON and x.is_cuda and th.compiler.is_compiling()
    return can_run and is_narrow and x.dtype == th.bfloat16 and x.numel() < 2**31  # which its integers hold
