"""Shifts are whole pixels, and the authors' are not."""

import pytest
import torch as th
from torch.nn import functional as F

from sb3_bcvlr.common.augmentations import random_shift, resampled_shift


def crops(image: th.Tensor, pad: int) -> dict[tuple[int, int], th.Tensor]:
    """Every crop (C, H, W) that a shift of the image may give."""
    _, height, width = image.shape
    padded = F.pad(image[None], (pad,) * 4, mode="replicate")[0]
    offsets = range(2 * pad + 1)
    return {(row, column): padded[:, row : row + height, column : column + width] for row in offsets for column in offsets}


def offsets_of(images: th.Tensor, shifted: th.Tensor, pad: int) -> list[tuple[int, int]]:
    found = []
    for image, result in zip(images, shifted, strict=True):
        (offset,) = (offset for offset, crop in crops(image, pad).items() if th.equal(crop, result))
        found.append(offset)
    return found


@pytest.mark.parametrize("pad", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_shifts_are_exact_crops_of_the_padded_image(pad, size):
    images = th.rand(6, 3, *size)
    shifted = random_shift(images, pad)
    assert shifted.shape == images.shape
    assert len(offsets_of(images, shifted, pad)) == 6  # each result is exactly one of the crops


def test_each_image_has_a_shift_of_its_own():
    th.manual_seed(0)
    images = th.rand(1, 3, 8, 8).repeat(32, 1, 1, 1)
    assert len(set(offsets_of(images, random_shift(images, 2), 2))) > 10


def test_all_offsets_occur():
    th.manual_seed(0)
    images = th.rand(1, 1, 6, 6).repeat(200, 1, 1, 1)
    assert set(offsets_of(images, random_shift(images, 1), 1)) == {(row, column) for row in range(3) for column in range(3)}


def test_a_shift_of_no_pixel_is_the_image():
    images = th.rand(2, 3, 8, 8)
    assert th.equal(random_shift(images, 0), images)


def test_the_resampled_shift_keeps_the_shape_and_is_no_crop():
    images = th.rand(4, 3, 8, 8)
    shifted = resampled_shift(images, 1)
    assert shifted.shape == images.shape
    for image, result in zip(images, shifted, strict=True):
        assert not any(th.allclose(crop, result, atol=1e-3) for crop in crops(image, 1).values())


@pytest.mark.parametrize("axis", [2, 3])
def test_the_resampled_shift_rescales_by_n_over_n_minus_1_and_moves_half_a_pixel(axis):
    th.manual_seed(0)
    size, pad = 16, 1
    n = size + 2 * pad
    ramp = th.arange(size, dtype=th.float32).view(1, 1, *((1, size) if axis == 3 else (size, 1)))
    shifted = resampled_shift(ramp.expand(20, 1, size, size), pad)
    lines = shifted[:, 0].select(3 - axis + 1, size // 2)  # along the axis, through the middle
    seen = set()
    for line in lines:
        inner = line[3:-3]
        assert th.allclose(inner.diff(), th.full((size - 7,), n / (n - 1)), atol=1e-4)
        # Pixel i shows column (i + s) n / (n - 1) - 1/2 of the padded image.
        shift = (inner[0] + pad + 0.5) * (n - 1) / n - 3
        assert abs(shift - shift.round()) < 1e-3
        seen.add(int(shift.round()))
    assert seen == {0, 1, 2}


def test_the_resampled_shift_keeps_any_shape():
    assert resampled_shift(th.rand(1, 3, 8, 9), 1).shape == (1, 3, 8, 9)


def ramp(size: int) -> th.Tensor:
    """(1, 2, size, size): the row in one channel, the column in the other."""
    return th.stack(th.meshgrid(th.arange(size), th.arange(size), indexing="ij"))[None].float()


def test_the_resampled_shift_moves_rows_and_columns_apart():
    th.manual_seed(0)
    shifted = resampled_shift(ramp(8).repeat(20, 1, 1, 1), 1)
    assert (shifted[:, 0, 4, 4] - shifted[:, 1, 4, 4]).abs().max() > 0.5


def test_the_resampled_shift_repeats_the_border():
    th.manual_seed(0)
    inner = resampled_shift(th.ones(20, 1, 8, 8), 2)[..., 1:-1, 1:-1]
    th.testing.assert_close(inner, th.ones_like(inner))


def test_resampled_shifts_of_a_picture_that_is_no_square_move_it_by_whole_steps():
    th.manual_seed(0)
    shifted = resampled_shift(th.arange(30.0).expand(64, 1, 6, 30), 3)  # each pixel says its column
    columns = shifted[:, 0, 3, 10].mul(1e3).round().div(1e3).unique()
    assert len(columns) > 1 and (columns.diff() - 1).abs().max() < 0.05
