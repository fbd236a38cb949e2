"""Codes are found, followed and revived as the docstrings say; the numbers can be checked by hand."""

import copy
import math

import pytest
import torch as th

from sb3_bcvlr.common.vector_quantizer import VectorQuantizer, perplexity, straight_through


def with_codes(*codes: float, **kwargs) -> VectorQuantizer:
    """One codebook of codes of one dimension, for one vector."""
    quantizer = VectorQuantizer(n_codebooks=1, codebook_size=len(codes), code_dim=1, n_latents=1, **kwargs)
    quantizer.codes.copy_(th.tensor(codes).view(1, -1, 1))
    quantizer.sums.copy_(quantizer.codes * quantizer.counts[..., None])
    return quantizer


@pytest.mark.parametrize("sizes", [(2, 64, 16, 4), (1, 5, 3, 2), (3, 7, 1, 1)])
def test_each_vector_gets_its_nearest_code(sizes):
    n_codebooks, _, code_dim, n_latents = sizes
    quantizer = VectorQuantizer(*sizes).eval()
    z = th.randn(6, quantizer.latent_dim) / 10
    quantized, indices, _ = quantizer(z)
    assert indices.shape == (6, n_codebooks, n_latents)
    for i in range(6):
        for codebook in range(n_codebooks):
            for latent in range(n_latents):
                places = [(codebook * code_dim + dim) * n_latents + latent for dim in range(code_dim)]
                distances = [sum((z[i, places] - code) ** 2) for code in quantizer.codes[codebook]]
                nearest = int(th.stack(distances).argmin())
                assert indices[i, codebook, latent] == nearest
                assert th.allclose(quantized[i, places], quantizer.codes[codebook, nearest], atol=1e-6)


def test_latents_of_a_codebook_are_the_fastest_index_of_the_flat_vector():
    quantizer = VectorQuantizer(n_codebooks=2, codebook_size=2, code_dim=2, n_latents=2).eval()
    quantizer.codes.copy_(th.tensor([[[0.0, 1.0], [10.0, 11.0]], [[20.0, 21.0], [30.0, 31.0]]]))
    # codebook 0: dim 0 of both latents, then dim 1 of both; then codebook 1
    z = th.tensor([[0.0, 10.0, 1.0, 11.0, 30.0, 20.0, 31.0, 21.0]])
    quantized, indices, loss = quantizer(z)
    assert th.equal(quantized, z)
    assert indices.tolist() == [[[0, 1], [1, 0]]]
    assert loss == 0


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_z():
    z = th.tensor([1.0, 2.0], requires_grad=True)
    result = straight_through(z, th.tensor([5.0, 7.0]))
    (result * th.tensor([3.0, -4.0])).sum().backward()
    assert result.tolist() == [5, 7]
    assert z.grad.tolist() == [3, -4]


def test_the_gradient_through_the_quantizer_is_the_identity():
    quantizer = VectorQuantizer()
    z = th.randn(3, quantizer.latent_dim, requires_grad=True)
    weights = th.randn(3, quantizer.latent_dim)
    (quantizer(z)[0] * weights).sum().backward()
    assert th.equal(z.grad, weights)


@pytest.mark.parametrize("revive_codes", [False, True])
def test_codes_rest_in_eval(revive_codes):
    quantizer = VectorQuantizer(revive_codes=revive_codes).eval()
    before = {name: buffer.clone() for name, buffer in quantizer.named_buffers()}
    quantizer(th.randn(4, quantizer.latent_dim))
    assert all(th.equal(buffer, before[name]) for name, buffer in quantizer.named_buffers())


def test_codes_are_no_parameters_but_are_saved():
    quantizer = VectorQuantizer()
    assert not list(quantizer.parameters())
    assert set(quantizer.state_dict()) == {"codes", "counts", "sums"}


def test_codes_start_uniformly_within_5_over_their_number():
    codes = VectorQuantizer(codebook_size=50).codes
    assert codes.abs().max() <= 0.1
    assert codes.abs().max() > 0.095
    assert abs(codes.mean()) < 0.01


def test_a_step_of_the_moving_averages():
    quantizer = with_codes(0.0, 10.0, decay=0.5)
    quantizer(th.tensor([[1.0], [3.0], [8.0]]))
    # counts 1 -> (1 + 2) / 2 and (1 + 1) / 2; sums 0 -> (0 + 4) / 2 and (10 + 8) / 2
    assert quantizer.counts.tolist() == [[1.5, 1.0]]
    assert quantizer.sums.flatten().tolist() == [2.0, 9.0]
    assert quantizer.codes.flatten().tolist() == pytest.approx([2 / 1.5, 9.0], abs=1e-3)


def test_counts_are_smoothed_by_laplace():
    quantizer = with_codes(0.0, 10.0, decay=0.5)
    quantizer(th.tensor([[1.0], [3.0], [8.0]]))
    smoothed = [(count + 1e-5) / (2.5 + 2e-5) * 2.5 for count in (1.5, 1.0)]
    assert quantizer.codes.flatten().tolist() == pytest.approx([2 / smoothed[0], 9 / smoothed[1]], rel=1e-6)


def test_codes_meet_the_vectors_as_they_were_before_the_step():
    quantizer = with_codes(0.0, 10.0, decay=0.5)
    quantized, _, _ = quantizer(th.tensor([[1.0], [8.0]]))
    assert quantized.flatten().tolist() == [0, 10]


def test_no_gradient_reaches_the_averages():
    quantizer = VectorQuantizer()
    quantizer(th.randn(3, quantizer.latent_dim, requires_grad=True))
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


def test_codes_settle_on_the_mean_of_their_vectors():
    quantizer = with_codes(0.0, 10.0, decay=0.9)
    for _ in range(200):
        quantizer(th.tensor([[1.0], [3.0], [8.0]]))
    assert quantizer.codes.flatten().tolist() == pytest.approx([2, 8], abs=1e-3)


@pytest.mark.parametrize(("zero_counts", "explode"), [(True, True), (False, False)])
def test_only_zero_counts_blow_the_codes_up_on_the_first_step(zero_counts, explode):
    quantizer = VectorQuantizer(zero_counts=zero_counts)
    largest = quantizer.codes.abs().max().item()
    quantizer(th.randn(8, quantizer.latent_dim) / 100)
    assert (quantizer.codes.abs().max().item() > 10 * largest) is explode


def test_revival_starts_all_codes_on_vectors_of_the_first_batch():
    quantizer = VectorQuantizer(1, 4, 2, 1, revive_codes=True)
    z = th.randn(64, 2) + 100
    quantizer(z)
    distances = th.cdist(quantizer.codes[0], z, compute_mode="donot_use_mm_for_euclid_dist")
    # The code that won all vectors became their mean; the others lie on one.
    assert sorted(distances.min(1).values < 1e-4)[1:] == [True, True, True]


def test_revival_moves_an_unused_code_onto_a_vector_and_leaves_the_used_one():
    quantizer = with_codes(0.0, 1000.0, decay=0.5, revive_codes=True)
    quantizer.counts.copy_(th.tensor([[4.0, 1e-6]]))
    quantizer.sums.copy_(quantizer.codes * quantizer.counts[..., None])
    quantizer(th.tensor([[1.0], [1.0], [3.0], [3.0]]))  # counts 4 and 5e-7; an equal share is 2
    assert quantizer.codes[0, 0].item() == pytest.approx((0 + 8) / 2 / 4, abs=1e-3)
    assert quantizer.codes[0, 1].item() in (1.0, 3.0)
    assert quantizer.counts[0, 1].item() == pytest.approx(0.1 * 2)
    assert quantizer.sums[0, 1].item() == pytest.approx(0.1 * 2 * quantizer.codes[0, 1].item())


@pytest.mark.parametrize(("revive_codes", "least", "most"), [(True, 0.9, 1.0), (False, 0.0, 0.3)])
def test_revival_brings_most_codes_into_use(revive_codes, least, most):
    th.manual_seed(0)
    quantizer = VectorQuantizer(2, 32, 4, 1, decay=0.9, revive_codes=revive_codes)
    for _ in range(50):
        _, indices, _ = quantizer(th.randn(256, quantizer.latent_dim) + 3)
    assert least <= perplexity(indices, 32)[0] <= most


def test_a_used_code_is_not_revived():
    quantizer = with_codes(0.0, 10.0, decay=0.5, revive_codes=True)
    quantizer.counts.fill_(1.0)
    quantizer.sums.copy_(quantizer.codes)
    quantizer(th.tensor([[1.0], [8.0]]))
    assert quantizer.codes.flatten().tolist() == pytest.approx([0.5, 9.0], abs=1e-3)


@pytest.mark.parametrize(
    ("indices", "use", "expected"),
    [
        ([[[0]], [[0]], [[0]], [[0]]], 1 / 4, 1),
        ([[[0]], [[1]], [[2]], [[3]]], 1, 4),
        ([[[0]], [[0]], [[1]], [[1]]], 1 / 2, 2),
        ([[[0]], [[0]], [[0]], [[1]]], 1 / 2, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        ([[[0, 1], [2, 2]]], 3 / 8, 2 + 1),  # two codebooks with two latents each: the sum
    ],
)
def test_perplexity_by_hand(indices, use, expected):
    code_use, value = perplexity(th.tensor(indices), 4)
    assert code_use.item() == pytest.approx(use)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_commitment_loss_is_the_mean_squared_distance_to_the_codes():
    quantizer = with_codes(0.0, 10.0).eval()
    z = th.tensor([[1.0], [7.0]], requires_grad=True)
    loss = quantizer(z)[2]
    assert loss.item() == (1**2 + 3**2) / 2
    loss.backward()
    assert z.grad.flatten().tolist() == [1.0, -3.0]  # 2 (z - code) / 2


def test_a_bypassed_quantizer_hands_latent_actions_on_and_learns_nothing():
    quantizer, z = VectorQuantizer(2, 8, 3, 2, revive_codes=True), th.randn(16, 12)
    before = quantizer.codes.clone()
    quantizer.bypass = True
    quantized, indices, commitment_loss = quantizer(z)
    assert th.equal(quantized, z)
    assert indices.shape == (16, 2, 2)
    assert commitment_loss == 0
    assert th.equal(quantizer.codes, before)


def test_a_quantizer_that_is_not_enabled_stays_bypassed():
    assert VectorQuantizer(2, 8, 3, 2, enabled=False).bypass and not VectorQuantizer(2, 8, 3, 2).bypass


def test_a_moved_code_has_time_to_win_vectors():
    quantizer = with_codes(0.0, 1000.0, decay=0.9, revive_codes=True)
    quantizer.counts.copy_(th.tensor([[4.0, 1e-6]]))
    quantizer.sums.copy_(quantizer.codes * quantizer.counts[..., None])
    quantizer(th.tensor([[1.0], [1.0], [3.0], [3.0]]))
    moved = quantizer.codes[0, 1].item()
    quantizer(th.full((4, 1), -5.0))
    assert quantizer.codes[0, 1].item() == pytest.approx(moved, abs=1e-3)


def test_unused_codes_are_moved_onto_vectors_of_their_own():
    quantizer = VectorQuantizer(1, 16, 2, 1, revive_codes=True)
    quantizer(th.randn(64, 2))
    assert len(th.unique(quantizer.codes[0], dim=0)) > 8


def test_codes_are_found_and_followed_as_precisely_under_autocast():
    th.manual_seed(0)
    plain = VectorQuantizer(decay=0.5)
    mixed, z = copy.deepcopy(plain), th.randn(64, plain.latent_dim)
    expected = plain(z)
    with th.autocast("cpu", th.bfloat16):
        quantized, indices, loss = mixed(z)
    th.testing.assert_close((quantized, indices, loss), expected, rtol=0, atol=0)
    th.testing.assert_close(mixed.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["n_codebooks", "codebook_size", "code_dim", "n_latents"])
def test_sizes_are_whole_numbers_from_1_on(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected a whole number from 1 on"):
        VectorQuantizer(**{name: 0})


@pytest.mark.parametrize("decay", [1.5, -3.0, "0.9"])
def test_a_decay_is_a_share(decay):
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        VectorQuantizer(decay=decay)
