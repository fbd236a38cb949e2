"""Random shift (DrQ: Kostrikov et al. 2021), the only augmentation of BCV-LR."""

import torch as th
from torch.nn import functional as F


def random_shift(images: th.Tensor, pad: int) -> th.Tensor:
    """
    Shift each image by its own whole number of pixels, up to ``pad`` in both directions; the border is repeated.

    :param images: (B, C, H, W) float
    :return: the same shape; crops are exact, unlike the authors' resampling (``resampled_shift``)
    """
    batch_size, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad), mode="replicate")
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 pad + 1, 2 pad + 1, H, W), a view
    rows, columns = th.randint(2 * pad + 1, (2, batch_size), device=images.device)
    return crops[th.arange(batch_size, device=images.device), :, rows, columns]


def resampled_shift(images: th.Tensor, pad: int) -> th.Tensor:
    """The authors' shift, to the letter: its sampling grid is off by half a pixel and rescales the image a little."""
    batch_size, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad), mode="replicate")
    rows, columns = (th.linspace(-1, 1, n + 2 * pad, device=images.device)[:n] for n in (height, width))
    grid = th.stack(th.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (H, W, 2) as (x, y)
    shifts = th.randint(2 * pad + 1, (batch_size, 1, 1, 2), device=images.device)
    steps = [shifts[..., axis] * (2 / (size + 2 * pad - 1)) for axis, size in enumerate((width, height))]
    return F.grid_sample(padded, grid + th.stack(steps, dim=-1), align_corners=False)
