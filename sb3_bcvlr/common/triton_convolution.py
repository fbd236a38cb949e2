"""The kernels of ``kernels.py``, imported when one is launched: Triton crashes where OSMesa was loaded before, by its LLVM."""

import triton
import triton.language as tl


@triton.jit
def load_windows(
    x,
    pair,
    y: tl.constexpr,
    n_pairs,
    height: tl.constexpr,
    width: tl.constexpr,
    n_channels: tl.constexpr,
    n_padded: tl.constexpr,
):
    """(pairs, 4 * n_padded): of row y - 1 the two pixels of each pair and their neighbours."""
    number = tl.arange(0, 4 * n_padded)
    channel = number % n_padded
    row = pair * 2 // width % height + y - 1
    column = (pair * 2 % width - 1)[:, None] + (number // n_padded)[None, :]
    is_inside = ((pair < n_pairs) & (row >= 0) & (row < height))[:, None] & (column >= 0) & (column < width)
    first = (pair * 2 + (y - 1) * width - 1) * n_channels
    places = first[:, None] + (number // n_padded * n_channels + channel)[None, :]
    return tl.load(x + places, is_inside & (channel < n_channels)[None, :], 0.0)


@triton.jit
def pair_places(pair, n_pairs, n_channels: tl.constexpr, n_padded: tl.constexpr):
    """Where the channels of pairs of pixels lie, (pairs, 2 * n_padded), and whether they do."""
    number = tl.arange(0, 2 * n_padded)
    channel = number % n_padded
    places = (pair * 2 * n_channels)[:, None] + (number // n_padded * n_channels + channel)[None, :]
    return places, (pair < n_pairs)[:, None] & (channel < n_channels)[None, :]


@triton.jit
def weight_places(n_input_padded: tl.constexpr, n_output_padded: tl.constexpr):
    """Where the weights of one row lie, from windows to pairs: (4 * n_input_padded, 2 * n_output_padded)."""
    return tl.arange(0, 4 * n_input_padded)[:, None] * (2 * n_output_padded) + tl.arange(0, 2 * n_output_padded)[None, :]


@triton.jit
def load_pairs(
    maps,
    pair,
    n_rows: tl.constexpr,
    n_pairs,
    height: tl.constexpr,
    width: tl.constexpr,
    n_channels: tl.constexpr,
    n_padded: tl.constexpr,
):
    """(pairs, 2 * n_padded): the two pixels, so many rows below each pair."""
    places, exists = pair_places(pair, n_pairs, n_channels, n_padded)
    row = pair * 2 // width % height + n_rows
    is_inside = (row >= 0) & (row < height)
    return tl.load(maps + places + n_rows * width * n_channels, exists & is_inside[:, None], 0.0)


@triton.jit
def convolve(
    x,
    weight,
    bias,
    mask,
    residual,
    output,
    rectified,
    n_pairs,
    height: tl.constexpr,
    width: tl.constexpr,
    n_input: tl.constexpr,
    n_input_padded: tl.constexpr,
    n_output: tl.constexpr,
    n_output_padded: tl.constexpr,
    has_bias: tl.constexpr,
    has_mask: tl.constexpr,
    has_residual: tl.constexpr,
    has_output: tl.constexpr,
    has_rectified: tl.constexpr,
    n_tile: tl.constexpr,
    n_stages: tl.constexpr,
):
    n_weights: tl.constexpr = 4 * n_input_padded * 2 * n_output_padded
    weights = weight + weight_places(n_input_padded, n_output_padded)
    # All before the first product: otherwise ptxas 12.8 forgets an address, and what comes out is wrong.
    weights0, weights1, weights2 = tl.load(weights), tl.load(weights + n_weights), tl.load(weights + 2 * n_weights)
    channel = tl.arange(0, 2 * n_output_padded) % n_output_padded
    added = tl.load(bias + channel, channel < n_output, 0.0).to(tl.float32)[None, :] if has_bias else 0.0
    for first in tl.range(tl.program_id(0) * n_tile, n_pairs, tl.num_programs(0) * n_tile, num_stages=n_stages):
        pair = first + tl.arange(0, n_tile)
        above = load_windows(x, pair, 0, n_pairs, height, width, n_input, n_input_padded)
        here = load_windows(x, pair, 1, n_pairs, height, width, n_input, n_input_padded)
        below = load_windows(x, pair, 2, n_pairs, height, width, n_input, n_input_padded)
        places, exists = pair_places(pair, n_pairs, n_output, n_output_padded)
        total = tl.dot(above, weights0, input_precision="ieee")
        total = tl.dot(here, weights1, total, input_precision="ieee")
        total = tl.dot(below, weights2, total, input_precision="ieee")
        total += added
        if has_mask:
            total = tl.where(tl.load(mask + places, exists, 0.0) > 0, total, 0.0)
        if has_residual:
            total += tl.load(residual + places, exists, 0.0).to(tl.float32)
        if has_output:
            tl.store(output + places, total.to(x.dtype.element_ty), exists)
        if has_rectified:
            tl.store(rectified + places, tl.maximum(total, 0.0).to(x.dtype.element_ty), exists)


@triton.jit
def weight_gradient(
    x,
    gradient,
    weight_parts,
    bias_parts,
    n_pairs,
    height: tl.constexpr,
    width: tl.constexpr,
    n_input: tl.constexpr,
    n_input_padded: tl.constexpr,
    n_output: tl.constexpr,
    n_output_padded: tl.constexpr,
    n_tile: tl.constexpr,
    n_stages: tl.constexpr,
):
    n_weights: tl.constexpr = 4 * n_input_padded * 2 * n_output_padded
    above = tl.zeros((4 * n_input_padded, 2 * n_output_padded), tl.float32)
    here = tl.zeros((4 * n_input_padded, 2 * n_output_padded), tl.float32)
    below = tl.zeros((4 * n_input_padded, 2 * n_output_padded), tl.float32)
    bias = tl.zeros((2 * n_output_padded,), tl.float32)
    for first in tl.range(tl.program_id(0) * n_tile, n_pairs, tl.num_programs(0) * n_tile, num_stages=n_stages):
        pair = first + tl.arange(0, n_tile)
        # A row of the input meets three of the output: to load these takes less than three of the input, whose pairs overlap.
        pixels = tl.trans(load_windows(x, pair, 1, n_pairs, height, width, n_input, n_input_padded))
        of_below = load_pairs(gradient, pair, 1, n_pairs, height, width, n_output, n_output_padded)
        of_here = load_pairs(gradient, pair, 0, n_pairs, height, width, n_output, n_output_padded)
        of_above = load_pairs(gradient, pair, -1, n_pairs, height, width, n_output, n_output_padded)
        above = tl.dot(pixels, of_below, above, input_precision="ieee")
        here = tl.dot(pixels, of_here, here, input_precision="ieee")
        below = tl.dot(pixels, of_above, below, input_precision="ieee")
        bias += tl.sum(of_here.to(tl.float32), 0)
    weights = weight_parts + tl.program_id(0) * 3 * n_weights + weight_places(n_input_padded, n_output_padded)
    tl.store(weights, above)
    tl.store(weights + n_weights, here)
    tl.store(weights + 2 * n_weights, below)
    tl.store(bias_parts + tl.program_id(0) * 2 * n_output_padded + tl.arange(0, 2 * n_output_padded), bias)
