"""The kernel of ``kernels.py``, imported when it is launched: Triton crashes where OSMesa was loaded before, by its LLVM."""

import triton
import triton.language as tl


@triton.jit
def convolve(
    x,
    weight,
    bias,
    mask,
    residual,
    output,
    rectified,
    n_blocks,
    height,
    width,
    n_channels: tl.constexpr,
    n_pixels: tl.constexpr,
    is_forward: tl.constexpr,
    has_residual: tl.constexpr,
    has_output: tl.constexpr,
    has_rectified: tl.constexpr,
    block_size: tl.constexpr,
):
    block = tl.program_id(0) * block_size + tl.arange(0, block_size)
    row, column = block * n_pixels // width % height, block * n_pixels % width
    two_pixels = tl.arange(0, 2 * n_channels)
    numbers = tl.arange(0, n_pixels * n_channels)
    exists = (block < n_blocks)[:, None]
    total = tl.zeros((block_size, n_pixels * n_channels), tl.float32)
    for y in tl.static_range(3):
        for pair in tl.static_range((n_pixels + 2) // 2):  # from the pixel before the block to the one after it
            from_row = row[:, None] + y - 1
            from_column = column[:, None] + 2 * pair - 1 + two_pixels[None, :] // n_channels
            is_inside = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
            first = (block * n_pixels + (y - 1) * width + 2 * pair - 1) * n_channels
            pixels = tl.load(x + first[:, None] + two_pixels[None, :], is_inside & exists, 0.0)
            used = (y * (n_pixels + 2) + 2 * pair) * n_channels + two_pixels
            weights = tl.load(weight + used[:, None] * (n_pixels * n_channels) + numbers[None, :])
            total = tl.dot(pixels, weights, total, input_precision="ieee")
    places = block[:, None] * (n_pixels * n_channels) + numbers[None, :]
    if is_forward:
        total += tl.load(bias + numbers % n_channels)[None, :].to(tl.float32)
    else:
        total = tl.where(tl.load(mask + places, exists, 0.0) > 0, total, 0.0)
    if has_residual:
        total += tl.load(residual + places, exists, 0.0).to(tl.float32)
    if has_output:
        tl.store(output + places, total.to(x.dtype.element_ty), exists)
    if has_rectified:
        tl.store(rectified + places, tl.maximum(total, 0.0).to(x.dtype.element_ty), exists)
