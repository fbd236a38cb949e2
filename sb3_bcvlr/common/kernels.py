"""
GPU kernels of our own, in Triton, which PyTorch brings along for GPUs: 3x3 convolutions of few channels with what follows
them, and the gradients of their weights.

A GPU multiplies 16 channels about as fast as it reads and writes the maps, and each bias, ReLU or sum that follows is one more
pass over them. PyTorch and cuDNN join none of these with a convolution (docs/benchmarks/speed.md).

A kernel handles two neighbours of a row as one: in each of three rows they meet four pixels, and what they become is a product
with a matrix that holds each weight twice, once for either, and 0 where a pixel is no neighbour of the other.
"""

import importlib.util
import math
from collections.abc import Collection
from typing import Any

import torch as th
from torch.nn import functional as F

HAS_TRITON = importlib.util.find_spec("triton") is not None  # not with every PyTorch
MAX_CHANNELS = 24  # w's in the paper's networks; more were not tried
# What was fastest on an H100 (docs/benchmarks/speed_kernels.csv): how many pairs of pixels a program takes at a time, the
# stages of its loop (1: nothing is loaded ahead), its warps, and the programs that share the pairs (0: each takes one lot).
CONVOLUTION = {"n_pairs": 64, "n_stages": 1, "num_warps": 4, "n_programs": 0}
CONVOLUTION_16 = {"n_pairs": 64, "n_stages": 3, "num_warps": 4, "n_programs": 264}  # of 16 channels to 16
BACKWARD = {"n_pairs": 64, "n_stages": 2, "num_warps": 4, "n_programs": 528}
BACKWARD_16 = {"n_pairs": 64, "n_stages": 3, "num_warps": 4, "n_programs": 264}
BACKWARD_WIDE = {"n_pairs": 128, "n_stages": 1, "num_warps": 8, "n_programs": 264}  # of more than 16
BACKWARD_WIDE_SMALL = {**BACKWARD_WIDE, "n_pairs": 64}
WIDE_BYTES = 131_072  # of shared memory, which the former takes; many GPUs have 101,376


def fill_up(tensor: th.Tensor, *paddings: int, **how: Any) -> th.Tensor:
    """As ``F.pad``, which copies even where there is nothing to fill up."""
    return F.pad(tensor, paddings, **how) if any(paddings) else tensor


def _padded(n_channels: int) -> int:
    """Triton's ranges are powers of two."""
    return 1 << (n_channels - 1).bit_length()


def _settings(n_input: int, n_output: int, of_weights: bool = False, shared_memory: float = math.inf) -> dict[str, int]:
    """:param shared_memory: bytes that a program may take, see ``_shared_memory``"""
    if n_input == n_output == 16:
        return BACKWARD_16 if of_weights else CONVOLUTION_16
    if not of_weights:
        return CONVOLUTION
    if max(n_input, n_output) <= 16:
        return BACKWARD
    return BACKWARD_WIDE if shared_memory >= WIDE_BYTES else BACKWARD_WIDE_SMALL


def _shared_memory(device: th.device) -> float:
    """Bytes that a program may take; Triton's interpreter, on a CPU, knows no limit."""
    if device.type != "cuda":
        return math.inf
    return getattr(th.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)  # AMD's do not tell


def _n_pairs(maps: th.Tensor) -> int:
    return math.prod(maps.shape[:3]) // 2


def _n_programs(maps: th.Tensor, settings: dict[str, int]) -> int:
    n_lots = -(-_n_pairs(maps) // settings["n_pairs"])
    return min(settings["n_programs"] or n_lots, n_lots)


def _launch(kernel: Any, maps: th.Tensor, n_output: int, settings: dict[str, int], *arguments: Any, **flags: bool) -> None:
    """``kernel`` on ``arguments``, the sizes of ``maps`` (B, H, W, C), which it turns into others of ``n_output`` channels."""
    assert all(tensor.is_contiguous() for tensor in arguments)
    _, height, width, n_channels = maps.shape
    kernel[(_n_programs(maps, settings),)](
        *arguments,
        _n_pairs(maps),
        height,
        width,
        n_channels,
        _padded(n_channels),
        n_output,
        _padded(n_output),
        **flags,
        n_tile=settings["n_pairs"],
        n_stages=settings["n_stages"],
        num_warps=settings["num_warps"],
    )


def _convolve(
    x: th.Tensor,
    weight: th.Tensor,
    bias: th.Tensor,
    residual: th.Tensor | None = None,
    rectifies_input: bool = False,
    rectifies_output: bool = False,
) -> th.Tensor:
    """
    ReLU(x) * weight + bias + residual, or of x as it is; and the ReLU of that.

    :param x: (B, H, W, C_in); the other maps (B, H, W, C_out), all contiguous
    :param weight: of ``_pair_weight``
    """
    from sb3_bcvlr.common.triton_convolution import convolve

    output = _new_output(x, bias)
    n_output = len(bias)
    flags = dict(has_residual=residual is not None, rectifies_input=rectifies_input, rectifies_output=rectifies_output)
    maps = (x, weight, bias, x if residual is None else residual, output)
    _launch(convolve, x, n_output, _settings(x.shape[3], n_output), *maps, **flags)
    return output


def _new_output(x: th.Tensor, bias: th.Tensor) -> th.Tensor:
    return x.new_empty(*x.shape[:3], len(bias))


def _convolve_backward(
    gradient: th.Tensor,
    x: th.Tensor,
    transposed: th.Tensor | None,
    residual: th.Tensor | None = None,
    rectifies_input: bool = False,
    is_rectified: bool = False,
    of_weights: bool = True,
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    ``_convolve`` backwards. The gradients of the input and of the weights take the same maps, so one kernel makes both.

    :param gradient: (B, H, W, C_out), of the output
    :param x: (B, H, W, C_in)
    :param transposed: of ``_transposed``; None, as of pictures: no gradient of x
    :param residual: is added to the gradient of x
    :param rectifies_input: x went through a ReLU before
    :param is_rectified: x comes from a ReLU, whose input the gradient is of
    :return: the gradients of x, of the transposed pairs' weight (3, 4, P_out, 2, P_in), and of their bias (4, P_out); empty
        where nobody asks for them
    """
    from sb3_bcvlr.common.triton_convolution import convolve_backward

    n_input, n_output = x.shape[3], gradient.shape[3]
    settings = _settings(n_output, n_input, of_weights, _shared_memory(x.device))
    outputs = _new_gradients(gradient, x, transposed is not None, of_weights, _n_programs(gradient, settings))
    _launch(
        convolve_backward,
        gradient,
        n_input,
        settings,
        gradient,
        gradient if transposed is None else transposed,
        x,
        gradient if residual is None else residual,
        *outputs,
        has_residual=residual is not None,
        rectifies_input=rectifies_input,
        is_rectified=is_rectified,
        of_input=transposed is not None,
        of_weights=of_weights,
    )
    x_gradient, weight, bias = outputs
    return (x_gradient, weight.sum(0), bias.sum(0)) if of_weights else outputs


def _new_gradients(
    gradient: th.Tensor, x: th.Tensor, of_input: bool, of_weights: bool, *n_parts: int
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Not yet written: what ``_convolve_backward`` returns, or the parts of it, one for each program."""
    x_gradient = th.empty_like(x) if of_input else x.new_empty(0)
    if not of_weights:
        return x_gradient, x.new_empty(0), x.new_empty(0)
    n_input, n_output = _padded(x.shape[3]), _padded(gradient.shape[3])
    weight = x.new_empty(*n_parts, 3, 4, n_output, 2, n_input, dtype=th.float32)
    return x_gradient, weight, x.new_empty(*n_parts, 4, n_output, dtype=th.float32)


@th.library.custom_op("sb3_bcvlr::convolution", mutates_args=())
def _convolution(x: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    return _convolve(x, weight, bias)


@_convolution.register_fake
def _(x: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    return _new_output(x, bias)


@th.library.custom_op("sb3_bcvlr::convolution_backward", mutates_args=())
def _convolution_backward(
    gradient: th.Tensor, x: th.Tensor, transposed: th.Tensor | None
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    return _convolve_backward(gradient, x, transposed)


@_convolution_backward.register_fake
def _(gradient: th.Tensor, x: th.Tensor, transposed: th.Tensor | None) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    return _new_gradients(gradient, x, transposed is not None, True)


class NarrowConvolution(th.autograd.Function):
    """
    A 3x3 convolution of few channels with a stride and a padding of 1, on maps (B, H, W, C):

        output = NarrowConvolution.apply(x, weight, bias)
    """

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
        ctx.save_for_backward(x, weight)
        return _convolution(x, _pair_weight(weight).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_input = ctx.needs_input_grad[0]  # not of pictures
        transposed = _transposed(weight, x.dtype) if of_input else None
        x_gradient, *pairs = _convolution_backward(gradients[0].contiguous(), x, transposed)
        return x_gradient if of_input else None, *_single_gradients(weight.shape, *pairs)


@th.library.custom_op("sb3_bcvlr::residual_block", mutates_args=())
def _residual_block(
    x: th.Tensor, weight1: th.Tensor, bias1: th.Tensor, weight2: th.Tensor, bias2: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """x + conv(ReLU(conv(ReLU(x)))), and ReLU(conv(ReLU(x)))."""
    hidden = _convolve(x, weight1, bias1, rectifies_input=True, rectifies_output=True)
    return _convolve(hidden, weight2, bias2, residual=x), hidden


@_residual_block.register_fake
def _(x: th.Tensor, weight1: th.Tensor, bias1: th.Tensor, *rest: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    return th.empty_like(x), _new_output(x, bias1)


@th.library.custom_op("sb3_bcvlr::residual_block_backward", mutates_args=())
def _residual_block_backward(
    gradient: th.Tensor, x: th.Tensor, hidden: th.Tensor, transposed1: th.Tensor, transposed2: th.Tensor, of_weights: bool
) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """From the output's gradient that of x and, where ``of_weights``, those of the pairs' weights and biases."""
    hidden_gradient, weight2, bias2 = _convolve_backward(
        gradient, hidden, transposed2, is_rectified=True, of_weights=of_weights
    )
    x_gradient, weight1, bias1 = _convolve_backward(
        hidden_gradient, x, transposed1, residual=gradient, rectifies_input=True, of_weights=of_weights
    )
    return x_gradient, weight1, bias1, weight2, bias2


@_residual_block_backward.register_fake
def _(gradient: th.Tensor, x: th.Tensor, hidden: th.Tensor, *rest: Any) -> Any:
    x_gradient, *of_first = _new_gradients(hidden, x, True, rest[-1])
    return x_gradient, *of_first, *_new_gradients(gradient, hidden, True, rest[-1])[1:]


class NarrowResidualBlock(th.autograd.Function):
    """
    ``networks.ResidualBlock`` of few channels, on maps (B, H, W, C), by the kernels of this module:

        output = NarrowResidualBlock.apply(x, weight1, bias1, weight2, bias2)
    """

    @staticmethod
    def forward(
        ctx: Any, x: th.Tensor, weight1: th.Tensor, bias1: th.Tensor, weight2: th.Tensor, bias2: th.Tensor
    ) -> th.Tensor:
        pair_weight1, pair_weight2 = (_pair_weight(weight).to(x.dtype) for weight in (weight1, weight2))
        output, hidden = _residual_block(x, pair_weight1, bias1, pair_weight2, bias2)
        ctx.save_for_backward(x, hidden, weight1, weight2)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, hidden, weight1, weight2 = ctx.saved_tensors
        transposed = (_transposed(weight, x.dtype) for weight in (weight1, weight2))
        of_weights = any(ctx.needs_input_grad[1:])  # not of a frozen network's
        x_gradient, *pairs = _residual_block_backward(gradients[0].contiguous(), x, hidden, *transposed, of_weights)
        if not of_weights:
            return x_gradient, None, None, None, None
        return x_gradient, *_single_gradients(weight1.shape, *pairs[:2]), *_single_gradients(weight2.shape, *pairs[2:])


def _single_gradients(shape: th.Size, pairs: th.Tensor, bias: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """The gradients of a weight of ``shape`` (C_out, C_in, 3, 3) and of its bias, from those of ``_convolve_backward``."""
    n_output, n_input = shape[:2]
    pairs = pairs[:, :, :n_output, :, :n_input]
    taps = pairs[:, :3, :, 0] + pairs[:, 1:, :, 1]  # (3, 3, C_out, C_in): the second pixel's neighbours are one further
    return taps.flip(0, 1).permute(2, 3, 0, 1), bias[1:3, :n_output].sum(0)  # a pair lies between its neighbours


def _pair_weight(weight: th.Tensor) -> th.Tensor:
    """
    The weights of a convolution as the kernel wants them.

    :param weight: (C_out, C_in, 3, 3)
    :return: (3, 4, P_in, 2, P_out): from three rows of a pair and the pixels before and after it, to the pair; channels that
        are missing to a power of two are 0
    """
    n_output, n_input = weight.shape[:2]
    placed = th.stack((F.pad(weight, (0, 1)), F.pad(weight, (1, 0))), 3)  # (C_out, C_in, 3, 2, 4): the second is one further
    placed = placed.permute(2, 4, 1, 3, 0)
    missing = (0, _padded(n_output) - n_output, 0, 0, 0, _padded(n_input) - n_input)
    return fill_up(placed, *missing).contiguous()


def _transposed(weight: th.Tensor, dtype: th.dtype) -> th.Tensor:
    """That of the convolution which makes the input's gradient of the output's."""
    return _pair_weight(weight.flip(2, 3).transpose(0, 1)).to(dtype)


def working_dtype(x: th.Tensor) -> th.dtype:
    """In which a convolution of x works, as PyTorch's own do under autocast."""
    device = x.device.type
    return th.get_autocast_dtype(device) if th.is_autocast_enabled(device) else x.dtype


def suits(x: th.Tensor, channels: Collection[int]) -> bool:
    """
    Whether the kernels take maps x (B, C, H, W) through convolutions of so many channels: few, bfloat16, a GPU, and compiled
    code, which needs Triton anyway.
    """
    n_samples, _, height, width = x.shape
    widest = max(channels)
    # Of 12 channels a test fails on an H100, why is not known yet; beside more than 16, by other settings, they are right.
    is_doubtful = widest <= 16 and any(8 < n_channels <= 12 for n_channels in channels)
    is_narrow = widest <= MAX_CHANNELS and not is_doubtful and width % 2 == 0
    can_count = n_samples * height * width * MAX_CHANNELS < 2**31  # in integers of 32 bits
    return (
        HAS_TRITON and x.is_cuda and th.compiler.is_compiling() and is_narrow and can_count and working_dtype(x) == th.bfloat16
    )
