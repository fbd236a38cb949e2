"""Vector quantizer with moving averages (VQ-VAE: van den Oord et al. 2017, appendix A.1), as LAPO and BCV-LR use it."""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_bcvlr.common.checks import check_whole, is_number


def straight_through(z: th.Tensor, z_q: th.Tensor) -> th.Tensor:
    """Forward ``z_q``, backward identity (VQ-VAE, Sec. 3.2)."""
    return z + (z_q - z).detach()


class VectorQuantizer(nn.Module):
    """
    Replaces the parts of a latent action by their nearest codes: ``quantized, indices, commitment_loss = quantizer(z)``.

    A latent action is ``n_codebooks`` groups of ``n_latents`` vectors of size ``code_dim``; the vectors of a group share
    a codebook. Entry ``(codebook * code_dim + dim) * n_latents + latent`` of the flat vector is their layout, the authors'.
    In training mode the codes follow the vectors given to them, and a code that nearly nothing is given to is moved
    onto a vector of the batch, unless ``revive_codes`` is False.

    :param n_codebooks: groups
    :param codebook_size: codes in each codebook
    :param code_dim: size of a code
    :param n_latents: vectors in a group
    :param decay: of the moving averages
    :param revive_codes: start the codes from the first batch and move unused ones (ours)
    :param enabled: False leaves z as it is for good (the paper's ablation), but still tells the nearest codes
    :param zero_counts: the authors' start: counts of 0 beside sums of 1 code each, so that the first step blows the codes
        up; leaves ``revive_codes`` out
    :raises ValueError: a size is no whole number from 1 on, or ``decay`` not from 0 to 1
    """

    codes: th.Tensor
    counts: th.Tensor
    sums: th.Tensor

    def __init__(
        self,
        n_codebooks: int = 2,
        codebook_size: int = 64,
        code_dim: int = 16,
        n_latents: int = 4,
        decay: float = 0.999,
        revive_codes: bool = False,
        enabled: bool = True,
        zero_counts: bool = False,
    ):
        super().__init__()
        check_whole(n_codebooks=n_codebooks, codebook_size=codebook_size, code_dim=code_dim, n_latents=n_latents)
        if not is_number(decay) or not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay!r}, expected a number from 0 to 1: the share of the old average that is kept.")
        self.n_codebooks, self.codebook_size, self.code_dim, self.n_latents = n_codebooks, codebook_size, code_dim, n_latents
        self.latent_dim = n_codebooks * code_dim * n_latents
        self.decay = decay
        self.enabled = enabled
        self.bypass = not enabled  # hand z on as it is: for good, or for a warm-up
        self.revive_codes = revive_codes and not zero_counts
        codes = (2 * th.rand(n_codebooks, codebook_size, code_dim) - 1) * 5 / codebook_size
        self.register_buffer("codes", codes)
        start = 0.0 if self.revive_codes else 1.0  # at 0, the first batch decides where every code is
        self.register_buffer("counts", th.full((n_codebooks, codebook_size), 0.0 if zero_counts else start))
        self.register_buffer("sums", start * codes)

    def forward(self, z: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Precise under autocast too: averages of codes need it.

        :param z: (B, latent_dim), float32
        :return: quantized latent actions (B, latent_dim) with the gradient of ``z``, the chosen codes
            (B, n_codebooks, n_latents), and the mean squared distance that ``z`` keeps from them
        """
        vectors = z.view(-1, self.n_codebooks, self.code_dim, self.n_latents).permute(1, 0, 3, 2)
        flat = vectors.reshape(self.n_codebooks, -1, self.code_dim)  # (codebooks, B * latents, dim)
        with th.no_grad():
            indices = th.cdist(flat, self.codes, compute_mode="use_mm_for_euclid_dist").argmin(-1)
            chosen = th.gather(self.codes, 1, indices[..., None].expand(-1, -1, self.code_dim))
            if self.training and not self.bypass:
                self._follow(flat, indices)
        codes_chosen = indices.view(self.n_codebooks, -1, self.n_latents).transpose(0, 1)
        if self.bypass:
            return z, codes_chosen, z.new_zeros(())
        z_q = chosen.view_as(vectors).permute(1, 0, 3, 2).reshape(z.shape)
        return straight_through(z, z_q), codes_chosen, F.mse_loss(z, z_q)

    def _follow(self, vectors: th.Tensor, indices: th.Tensor) -> None:
        """Move each code to the average of its vectors, exponentially forgetting, with Laplace-smoothed counts."""
        chosen = F.one_hot(indices, self.codebook_size).to(vectors.dtype)  # (codebooks, N, codes)
        self.counts.lerp_(chosen.sum(1), 1 - self.decay)
        # In float64, which autocast leaves alone: PyTorch keeps no trace of code that switches it off (BCVLR._compiled).
        sums = chosen.double().transpose(1, 2) @ vectors.double()
        self.sums.lerp_(sums.to(self.sums.dtype), 1 - self.decay)
        total = self.counts.sum(-1, keepdim=True)
        smoothed = (self.counts + 1e-5) / (total + self.codebook_size * 1e-5) * total
        self.codes.copy_(self.sums / smoothed[..., None])
        if self.revive_codes:
            self._revive(vectors)

    def _revive(self, vectors: th.Tensor) -> None:
        """Put the codes that hold under 1 % of an equal share of the vectors onto vectors drawn from the batch."""
        share = vectors.shape[1] / self.codebook_size
        unused = self.counts < 0.01 * share
        draws = th.randint(vectors.shape[1], unused.shape, device=vectors.device)
        candidates = th.gather(vectors, 1, draws[..., None].expand(-1, -1, self.code_dim))
        self.codes.copy_(th.where(unused[..., None], candidates, self.codes))
        # A tenth of an equal share gives the moved code some two time constants' grace to win vectors of its own.
        self.counts.copy_(th.where(unused, 0.1 * share, self.counts))
        self.sums.copy_(th.where(unused[..., None], 0.1 * share * candidates, self.sums))


def perplexity(indices: th.Tensor, codebook_size: int) -> tuple[th.Tensor, th.Tensor]:
    """
    :param indices: (B, n_codebooks, n_latents)
    :return: share of the codes that are used at all, and the perplexity summed over codebooks
    """
    use = F.one_hot(indices, codebook_size).float().mean(dim=(0, 2))  # (codebooks, codes)
    entropy = -(use * (use + 1e-10).log()).sum(-1)
    return (use > 0).float().mean(), entropy.exp().sum()
