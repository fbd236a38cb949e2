"""
GPU kernels of our own, in Triton, which PyTorch brings along for GPUs: 3x3 convolutions of few channels with what follows
them, and the gradients of their weights.

A GPU multiplies 16 channels about as fast as it reads and writes the maps, and each bias, ReLU or sum that follows is one more
pass over them. PyTorch and cuDNN join none of these with a convolution (docs/benchmarks/speed.md).

A kernel handles two neighbours of a row as one: in each of three rows they meet four pixels, and what they become is a product
with a matrix that holds each weight twice, once for either, and 0 where a pixel is no neighbour of the other.
"""

import importlib.util
from typing import Any

import torch as th
from torch.nn import functional as F

HAS_TRITON = importlib.util.find_spec("triton") is not None  # not with every PyTorch
MAX_CHANNELS = 24  # w's in the paper's networks; more were not tried
# What was fastest on an H100 (docs/benchmarks/speed_kernels.csv): how many pairs of pixels a program takes at a time, the
# stages of its loop (1: nothing is loaded ahead), its warps, and the programs that share the pairs (0: each takes one lot).
CONVOLUTION = {"n_pairs": 64, "n_stages": 1, "num_warps": 4, "n_programs": 0}
CONVOLUTION_16 = {"n_pairs": 64, "n_stages": 3, "num_warps": 4, "n_programs": 264}  # of 16 channels to 16
WEIGHT_GRADIENT = {"n_pairs": 64, "n_stages": 2, "num_warps": 4, "n_programs": 528}


def _padded(n_channels: int) -> int:
    """Triton's ranges are powers of two."""
    return 1 << (n_channels - 1).bit_length()


def _convolution_settings(n_input: int, n_output: int) -> dict[str, int]:
    return CONVOLUTION_16 if n_input == n_output == 16 else CONVOLUTION


def _sizes(x: th.Tensor, n_output: int) -> tuple[int, ...]:
    """What a kernel wants to know of maps x (B, H, W, C_in) and of what they become."""
    n_samples, height, width, n_input = x.shape
    return n_samples * height * width // 2, height, width, n_input, _padded(n_input), n_output, _padded(n_output)


def _convolve(
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

    :param x: (B, H, W, C_in); the other maps (B, H, W, C_out), all contiguous
    :param weight: of ``_pair_weight``
    """
    from sb3_bcvlr.common.triton_convolution import convolve

    given = (x, weight, bias, mask, residual, output, rectified)
    assert all(tensor is None or tensor.is_contiguous() for tensor in given)
    n_output = next(maps.shape[3] for maps in (output, rectified) if maps is not None)
    n_pairs, *sizes = _sizes(x, n_output)
    settings = _convolution_settings(x.shape[3], n_output)
    n_lots = -(-n_pairs // settings["n_pairs"])
    convolve[(min(settings["n_programs"] or n_lots, n_lots),)](
        *(x if tensor is None else tensor for tensor in given),
        n_pairs,
        *sizes,
        bias is not None,
        mask is not None,
        residual is not None,
        output is not None,
        rectified is not None,
        settings["n_pairs"],
        settings["n_stages"],
        num_warps=settings["num_warps"],
    )


@th.library.custom_op("sb3_bcvlr::convolution", mutates_args=())
def _convolution(x: th.Tensor, weight: th.Tensor, bias: th.Tensor, with_relu: bool) -> tuple[th.Tensor, th.Tensor]:
    """A convolution and its ReLU, which is empty where nobody asks for it."""
    outputs = _convolution_outputs(x, weight, bias, with_relu)
    _convolve(x, weight, bias, output=outputs[0], rectified=outputs[1] if with_relu else None)
    return outputs


@_convolution.register_fake
def _convolution_outputs(x: th.Tensor, weight: th.Tensor, bias: th.Tensor, with_relu: bool) -> tuple[th.Tensor, th.Tensor]:
    output = x.new_empty(*x.shape[:3], len(bias))
    return output, th.empty_like(output) if with_relu else x.new_empty(0)


@th.library.custom_op("sb3_bcvlr::convolution_backward", mutates_args=())
def _convolution_backward(
    gradient: th.Tensor, x: th.Tensor, transposed: th.Tensor | None
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """From the output's gradient that of x, empty without ``transposed``, and those of the pairs' weight and bias."""
    x_gradient = x.new_empty(0) if transposed is None else th.empty_like(x)
    if transposed is not None:
        _convolve(gradient, transposed, output=x_gradient)
    return x_gradient, *_weight_gradient(x, gradient)


@_convolution_backward.register_fake
def _(gradient: th.Tensor, x: th.Tensor, transposed: th.Tensor | None) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    return x.new_empty(0) if transposed is None else th.empty_like(x), *_new_gradients(x, gradient)


class NarrowConvolution(th.autograd.Function):
    """
    A 3x3 convolution of few channels with a stride and a padding of 1, on maps (B, H, W, C), and its ReLU:

        output, rectified = NarrowConvolution.apply(x, weight, bias, with_relu)

    where no gradient goes through ``rectified``, which is empty without ``with_relu``.
    """

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, weight: th.Tensor, bias: th.Tensor, with_relu: bool) -> tuple[th.Tensor, th.Tensor]:
        output, rectified = _convolution(x, _pair_weight(weight).to(x.dtype), bias, with_relu)
        ctx.save_for_backward(x, weight)
        ctx.mark_non_differentiable(rectified)
        return output, rectified

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = ctx.needs_input_grad[0]  # not of pictures
        transposed = _transposed(weight, x.dtype) if of_x else None
        x_gradient, *pairs = _convolution_backward(gradients[0].contiguous(), x, transposed)
        return x_gradient if of_x else None, *_single_gradients(weight.shape, *pairs), None


@th.library.custom_op("sb3_bcvlr::residual_block", mutates_args=())
def _residual_block(
    x: th.Tensor,
    rectified: th.Tensor,
    weight1: th.Tensor,
    bias1: th.Tensor,
    weight2: th.Tensor,
    bias2: th.Tensor,
    with_relu: bool,
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """x + conv(ReLU(conv(ReLU(x)))) from x and ReLU(x), its ReLU, empty where nobody asks for it, and ReLU(conv(ReLU(x)))."""
    output, output_rectified, hidden = _block_outputs(x, rectified, weight1, bias1, weight2, bias2, with_relu)
    _convolve(rectified, weight1, bias1, rectified=hidden)
    _convolve(hidden, weight2, bias2, residual=x, output=output, rectified=output_rectified if with_relu else None)
    return output, output_rectified, hidden


@_residual_block.register_fake
def _block_outputs(x: th.Tensor, rectified: th.Tensor, weight1: th.Tensor, bias1: th.Tensor, *rest: Any) -> Any:
    return th.empty_like(x), th.empty_like(x) if rest[-1] else x.new_empty(0), x.new_empty(*x.shape[:3], len(bias1))


@th.library.custom_op("sb3_bcvlr::residual_block_backward", mutates_args=())
def _residual_block_backward(
    gradient: th.Tensor,
    rectified: th.Tensor,
    hidden: th.Tensor,
    transposed1: th.Tensor,
    transposed2: th.Tensor,
    of_weights: bool,
) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """From the output's gradient that of x and, where ``of_weights``, those of the pairs' weights and biases."""
    x_gradient, hidden_gradient = th.empty_like(gradient), th.empty_like(hidden)
    _convolve(gradient, transposed2, mask=hidden, output=hidden_gradient)
    _convolve(hidden_gradient, transposed1, mask=rectified, residual=gradient, output=x_gradient)
    if not of_weights:
        return x_gradient, *_no_gradients(gradient), *_no_gradients(gradient)
    return x_gradient, *_weight_gradient(rectified, hidden_gradient), *_weight_gradient(hidden, gradient)


@_residual_block_backward.register_fake
def _(gradient: th.Tensor, rectified: th.Tensor, hidden: th.Tensor, *rest: Any) -> Any:
    if not rest[-1]:
        return th.empty_like(gradient), *_no_gradients(gradient), *_no_gradients(gradient)
    return th.empty_like(gradient), *_new_gradients(rectified, hidden), *_new_gradients(hidden, gradient)


class NarrowResidualBlock(th.autograd.Function):
    """
    ``networks.ResidualBlock`` of few channels, on maps (B, H, W, C), by the kernels of this module:

        x, rectified = NarrowResidualBlock.apply(x, rectified, weight1, bias1, weight2, bias2, with_relu)

    where ``rectified`` is ReLU(x), through which no gradient goes, before the block and after it; empty without ``with_relu``.
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
        with_relu: bool,
    ) -> tuple[th.Tensor, th.Tensor]:
        pair_weight1, pair_weight2 = (_pair_weight(weight).to(x.dtype) for weight in (weight1, weight2))
        output, output_rectified, hidden = _residual_block(x, rectified, pair_weight1, bias1, pair_weight2, bias2, with_relu)
        ctx.save_for_backward(rectified, hidden, weight1, weight2)
        ctx.mark_non_differentiable(output_rectified)
        return output, output_rectified

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor | None, ...]:
        rectified, hidden, weight1, weight2 = ctx.saved_tensors
        transposed = (_transposed(weight, rectified.dtype) for weight in (weight1, weight2))
        of_weights = any(ctx.needs_input_grad[2:6])  # not of a frozen network's
        x_gradient, *pairs = _residual_block_backward(gradients[0].contiguous(), rectified, hidden, *transposed, of_weights)
        if not of_weights:
            return x_gradient, None, None, None, None, None, None
        of_first, of_second = _single_gradients(weight1.shape, *pairs[:2]), _single_gradients(weight2.shape, *pairs[2:])
        return x_gradient, None, *of_first, *of_second, None


def _weight_gradient(x: th.Tensor, gradient: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    The gradients of the pairs' weight, (3, 4, P_in, 2, P_out) as of ``_pair_weight``, and of their bias, (2, P_out).

    :param x: (B, H, W, C_in), which was convolved
    :param gradient: (B, H, W, C_out), of what it became
    """
    from sb3_bcvlr.common.triton_convolution import weight_gradient

    assert x.is_contiguous() and gradient.is_contiguous()
    parts = _new_gradients(x, gradient, WEIGHT_GRADIENT["n_programs"])
    weight_gradient[(WEIGHT_GRADIENT["n_programs"],)](
        x,
        gradient,
        *parts,
        *_sizes(x, gradient.shape[3]),
        WEIGHT_GRADIENT["n_pairs"],
        WEIGHT_GRADIENT["n_stages"],
        num_warps=WEIGHT_GRADIENT["num_warps"],
    )
    weight, bias = parts
    return weight.sum(0), bias.sum(0)


def _new_gradients(x: th.Tensor, gradient: th.Tensor, *n_parts: int) -> tuple[th.Tensor, th.Tensor]:
    """Not yet written: what ``_weight_gradient`` returns, or its parts, one for each program."""
    n_input, n_output = _padded(x.shape[3]), _padded(gradient.shape[3])
    weight = x.new_empty(*n_parts, 3, 4, n_input, 2, n_output, dtype=th.float32)
    return weight, x.new_empty(*n_parts, 2, n_output, dtype=th.float32)


def _no_gradients(x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    return x.new_empty(0), x.new_empty(0)


def _single_gradients(shape: th.Size, pairs: th.Tensor, bias: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """The gradients of a weight of ``shape`` (C_out, C_in, 3, 3) and of its bias (C_out,), from those of the pairs'."""
    n_output, n_input = shape[:2]
    pairs = pairs[:, :, :n_input, :, :n_output]
    taps = pairs[:, :3, :, 0] + pairs[:, 1:, :, 1]  # (3, 3, C_in, C_out): the second pixel's neighbours are one further
    return taps.permute(3, 2, 0, 1), bias.sum(0)[:n_output]


def _pair_weight(weight: th.Tensor) -> th.Tensor:
    """
    The weights of a convolution as the kernel wants them.

    :param weight: (C_out, C_in, 3, 3)
    :return: (3, 4, P_in, 2, P_out): from three rows of a pair and the pixels before and after it, to the pair; channels that
        are missing to a power of two are 0
    """
    tap, to_pixel, from_pixel = (th.arange(n, device=weight.device) for n in (3, 2, 4))
    is_tap = from_pixel == to_pixel[:, None] + tap[:, None, None]  # the first is the one before the pair
    placed = (weight[..., None, None] * is_tap).sum(3).permute(2, 4, 1, 3, 0)  # (3, 4, C_in, 2, C_out)
    n_output, n_input = weight.shape[:2]
    return F.pad(placed, (0, _padded(n_output) - n_output, 0, 0, 0, _padded(n_input) - n_input)).contiguous()


def _transposed(weight: th.Tensor, dtype: th.dtype) -> th.Tensor:
    """That of the convolution which makes the input's gradient of the output's."""
    return _pair_weight(weight.flip(2, 3).transpose(0, 1)).to(dtype)


def working_dtype(x: th.Tensor) -> th.dtype:
    """In which a convolution of x works, as PyTorch's own do under autocast."""
    device = x.device.type
    return th.get_autocast_dtype(device) if th.is_autocast_enabled(device) else x.dtype


def suits(x: th.Tensor, n_channels: int) -> bool:
    """
    Whether the kernels take maps x (B, C, H, W) to convolve them to at most so many channels: few, bfloat16, a GPU, and
    compiled code, which needs Triton anyway.
    """
    n_samples, n_input, height, width = x.shape
    is_narrow = max(n_input, n_channels) <= MAX_CHANNELS and width % 2 == 0
    can_count = n_samples * height * width * MAX_CHANNELS < 2**31  # in integers of 32 bits
    return (
        HAS_TRITON and x.is_cuda and th.compiler.is_compiling() and is_narrow and can_count and working_dtype(x) == th.bfloat16
    )
