"""The kernels of ``kernels.py``, imported when one is launched: Triton crashes where OSMesa was loaded before, by its LLVM."""

import triton
import triton.language as tl


@triton.jit
def load_row(
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
def load_windows(
    x, pair, n_pairs, height: tl.constexpr, width: tl.constexpr, n_channels: tl.constexpr, n_padded: tl.constexpr
):
    """What a 3x3 convolution of each pair sees of maps x, row by row."""
    above = load_row(x, pair, 0, n_pairs, height, width, n_channels, n_padded)
    here = load_row(x, pair, 1, n_pairs, height, width, n_channels, n_padded)
    below = load_row(x, pair, 2, n_pairs, height, width, n_channels, n_padded)
    return above, here, below


@triton.jit
def multiply(above, here, below, weights0, weights1, weights2):
    total = tl.dot(above, weights0, input_precision="ieee")
    total = tl.dot(here, weights1, total, input_precision="ieee")
    return tl.dot(below, weights2, total, input_precision="ieee")


@triton.jit
def rectify(maps):
    return tl.where(maps > 0, maps, 0.0)  # tl.maximum would make bfloat16 float32


@triton.jit
def pair_places(pair, n_pairs, n_channels: tl.constexpr, n_padded: tl.constexpr):
    """Where the channels of pairs of pixels lie, (pairs, 2 * n_padded), and whether they do."""
    number = tl.arange(0, 2 * n_padded)
    channel = number % n_padded
    places = (pair * 2 * n_channels)[:, None] + (number // n_padded * n_channels + channel)[None, :]
    return places, (pair < n_pairs)[:, None] & (channel < n_channels)[None, :]


@triton.jit
def load_weights(weight, n_input_padded: tl.constexpr, n_output_padded: tl.constexpr):
    """Of three rows, from windows to pairs: (4 * n_input_padded, 2 * n_output_padded) each."""
    n_weights: tl.constexpr = 4 * n_input_padded * 2 * n_output_padded
    weights = weight + weight_places(n_input_padded, n_output_padded)
    return tl.load(weights), tl.load(weights + n_weights), tl.load(weights + 2 * n_weights)


@triton.jit
def weight_places(n_input_padded: tl.constexpr, n_output_padded: tl.constexpr):
    return tl.arange(0, 4 * n_input_padded)[:, None] * (2 * n_output_padded) + tl.arange(0, 2 * n_output_padded)[None, :]


@triton.jit
def convolve(
    x,
    weight,
    bias,
    residual,
    output,
    n_pairs,
    height: tl.constexpr,
    width: tl.constexpr,
    n_input: tl.constexpr,
    n_input_padded: tl.constexpr,
    n_output: tl.constexpr,
    n_output_padded: tl.constexpr,
    has_residual: tl.constexpr,
    rectifies_input: tl.constexpr,
    rectifies_output: tl.constexpr,
    n_tile: tl.constexpr,
    n_stages: tl.constexpr,
):
    # All before the first product: otherwise ptxas 12.8 forgets an address, and what comes out is wrong.
    weights0, weights1, weights2 = load_weights(weight, n_input_padded, n_output_padded)
    channel = tl.arange(0, 2 * n_output_padded) % n_output_padded
    added = tl.load(bias + channel, channel < n_output, 0.0).to(tl.float32)[None, :]
    for first in tl.range(tl.program_id(0) * n_tile, n_pairs, tl.num_programs(0) * n_tile, num_stages=n_stages):
        pair = first + tl.arange(0, n_tile)
        above, here, below = load_windows(x, pair, n_pairs, height, width, n_input, n_input_padded)
        if rectifies_input:
            above, here, below = rectify(above), rectify(here), rectify(below)
        places, exists = pair_places(pair, n_pairs, n_output, n_output_padded)
        total = multiply(above, here, below, weights0, weights1, weights2) + added
        if has_residual:
            total += tl.load(residual + places, exists, 0.0).to(tl.float32)
        if rectifies_output:  # NaN stays; of what is rectified while it is loaded, the sum beside it keeps that
            total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(output + places, total.to(x.dtype.element_ty), exists)


@triton.jit
def convolve_backward(
    gradient,
    transposed,
    x,
    residual,
    x_gradient,
    weight_parts,
    bias_parts,
    n_pairs,
    height: tl.constexpr,
    width: tl.constexpr,
    n_output: tl.constexpr,
    n_output_padded: tl.constexpr,
    n_input: tl.constexpr,
    n_input_padded: tl.constexpr,
    has_residual: tl.constexpr,
    rectifies_input: tl.constexpr,
    is_rectified: tl.constexpr,
    of_input: tl.constexpr,
    of_weights: tl.constexpr,
    n_tile: tl.constexpr,
    n_stages: tl.constexpr,
):
    if of_input:
        weights0, weights1, weights2 = load_weights(transposed, n_output_padded, n_input_padded)
    if of_weights:
        of_above = tl.zeros((4 * n_output_padded, 2 * n_input_padded), tl.float32)
        of_here = tl.zeros((4 * n_output_padded, 2 * n_input_padded), tl.float32)
        of_below = tl.zeros((4 * n_output_padded, 2 * n_input_padded), tl.float32)
        of_bias = tl.zeros((n_tile, 4 * n_output_padded), tl.float32)
    for first in tl.range(tl.program_id(0) * n_tile, n_pairs, tl.num_programs(0) * n_tile, num_stages=n_stages):
        pair = first + tl.arange(0, n_tile)
        above, here, below = load_windows(gradient, pair, n_pairs, height, width, n_output, n_output_padded)
        places, exists = pair_places(pair, n_pairs, n_input, n_input_padded)
        pixels = tl.load(x + places, exists, 0.0)
        if of_weights:
            seen = rectify(pixels) if rectifies_input else pixels
            of_above = tl.dot(tl.trans(above), seen, of_above, input_precision="ieee")
            of_here = tl.dot(tl.trans(here), seen, of_here, input_precision="ieee")
            of_below = tl.dot(tl.trans(below), seen, of_below, input_precision="ieee")
            of_bias += here.to(tl.float32)
        if of_input:
            total = multiply(above, here, below, weights0, weights1, weights2)
            if rectifies_input or is_rectified:
                total = tl.where(pixels > 0, total, 0.0)
            if has_residual:
                total += tl.load(residual + places, exists, 0.0).to(tl.float32)
            tl.store(x_gradient + places, total.to(gradient.dtype.element_ty), exists)
    if of_weights:
        n_weights: tl.constexpr = 4 * n_output_padded * 2 * n_input_padded
        weights = weight_parts + tl.program_id(0) * 3 * n_weights + weight_places(n_output_padded, n_input_padded)
        tl.store(weights, of_above)
        tl.store(weights + n_weights, of_here)
        tl.store(weights + 2 * n_weights, of_below)
        biases = bias_parts + tl.program_id(0) * 4 * n_output_padded + tl.arange(0, 4 * n_output_padded)
        tl.store(biases, tl.sum(of_bias, 0))
