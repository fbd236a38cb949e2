"""The feature loss is the paper's Eq. 1 and trains what it should."""

import math

import pytest
import torch as th

from sb3_bcvlr.common.augmentations import random_shift, resampled_shift
from sb3_bcvlr.common.contrastive import InfoNCE, PrototypeLoss, sinkhorn
from sb3_bcvlr.common.networks import Encoder

SHAPE = (3, 8, 8)
SMALL = dict(projection_dim=4, hidden_dim=8)


def make_loss(shape=SHAPE, strides=(2,), **kwargs) -> InfoNCE:
    return InfoNCE(Encoder(shape, [4] * len(strides), strides, 0), shape, **{**SMALL, **kwargs})


class Flat(th.nn.Module):
    """An encoder that gives the pixels as they are."""

    feature_shape = (1, 1, 2)

    def forward(self, x):
        return x


def test_info_nce_by_hand():
    feature_loss = InfoNCE(Flat(), (1, 1, 2), projection_dim=2, hidden_dim=2, pad=0, reconstruction_coef=0)
    identity = th.eye(2)
    layers = [feature_loss.online[1][1], feature_loss.target[1][1], feature_loss.predictor[0], feature_loss.predictor[2]]
    for layer in layers:
        layer.weight.data, layer.bias.data = identity.clone(), th.zeros(2)
    feature_loss.bilinear.weight.data = th.tensor([[2.0, 0.0], [0.0, 1.0]])  # W
    s = th.tensor([[1.0, 0.0], [0.0, 3.0]])
    # u(s_i)^T W s'_j: [[2, 0], [0, 9]]
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-9))) / 2
    assert feature_loss(s.view(2, 1, 1, 1, 2)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("coefficient", [0.0, 0.1, 2.0])
def test_the_loss_is_the_contrast_plus_the_weighted_reconstruction(coefficient):
    th.manual_seed(0)
    feature_loss, frames = make_loss(pad=0, reconstruction_coef=coefficient), th.rand(5, 3, *SHAPE) - 0.5
    views = frames[:, 0]
    features = feature_loss.online[0](views)
    u = feature_loss.predictor(feature_loss.online[1](features))
    scores = (u @ feature_loss.bilinear.weight @ feature_loss.target(views).T).exp()
    contrast = -(scores.diagonal() / scores.sum(1)).log().mean()
    reconstruction = ((feature_loss.reconstruction(features) - views) ** 2).mean()
    assert feature_loss(frames).item() == pytest.approx((contrast + coefficient * reconstruction).item(), rel=1e-4)


def test_only_the_first_frame_of_a_window_is_used():
    feature_loss, frames = make_loss(pad=0), th.rand(4, 3, *SHAPE) - 0.5
    other = frames.clone()
    other[:, 1:] = 0
    assert feature_loss(frames) == feature_loss(other)


def test_encoder_and_target_see_two_views_that_are_shifted_differently():
    feature_loss, views, met = make_loss(pad=1), [], []
    for network in (feature_loss.online[0], feature_loss.target):
        network.register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))

    def shift(images, pad):
        views.append(random_shift(images, pad))
        return views[-1]

    feature_loss.shift = shift
    feature_loss(th.rand(8, 1, *SHAPE))
    assert not th.equal(*views)
    assert th.equal(met[0], views[0])
    assert th.equal(met[1], views[1])


def test_the_gradient_reaches_all_but_the_target():
    feature_loss = make_loss()
    feature_loss(th.rand(4, 2, *SHAPE) - 0.5).backward()
    with_gradient = {name.split(".")[0] for name, p in feature_loss.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {"predictor", "bilinear", "reconstruction", "online"}
    assert all(p.grad.any() for p in feature_loss.online[0].parameters())
    assert all(p.grad is None and not p.requires_grad for p in feature_loss.target.parameters())


def test_a_frozen_reconstruction_gets_no_gradient_but_passes_it_to_the_encoder():
    feature_loss = make_loss(literal=frozenset({"frozen_reconstruction"}))
    frozen = [p.requires_grad for p in feature_loss.reconstruction.parameters()]
    assert not any(frozen)
    for parameter in feature_loss.predictor.parameters():  # no contrast: what is left is the reconstruction
        parameter.data.zero_()
    feature_loss(th.rand(4, 2, *SHAPE) - 0.5).backward()
    assert all(p.grad is None for p in feature_loss.reconstruction.parameters())
    assert feature_loss.online[0].net[0].weight.grad.any()


@pytest.mark.parametrize(("literal", "shift"), [((), random_shift), ({"resampled_shift"}, resampled_shift)])
def test_resampled_shift_chooses_the_authors_shift(literal, shift):
    assert make_loss(literal=frozenset(literal)).shift is shift


def test_without_weight_the_reconstruction_is_left_out():
    feature_loss = make_loss(reconstruction_coef=0)
    feature_loss(th.rand(4, 2, *SHAPE)).backward()
    assert all(p.grad is None for p in feature_loss.reconstruction.parameters())


def test_the_encoder_is_trained_in_place():
    encoder = Encoder(SHAPE, (4,), (2,), 0)
    assert InfoNCE(encoder, SHAPE, **SMALL).online[0] is encoder


def test_the_target_starts_equal_to_the_online_networks():
    feature_loss = make_loss()
    for online, target in zip(feature_loss.online.parameters(), feature_loss.target.parameters(), strict=True):
        assert th.equal(online, target)
        assert online is not target


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_update_target_is_polyak(tau):
    feature_loss = make_loss()
    for parameter in feature_loss.online.parameters():
        parameter.data.fill_(8.0)
    for parameter in feature_loss.target.parameters():
        parameter.data.fill_(4.0)
    feature_loss.update_target(tau)
    assert all((parameter == 4 + 4 * tau).all() for parameter in feature_loss.target.parameters())
    assert all((parameter == 8).all() for parameter in feature_loss.online.parameters())


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((3, 8, 8), (1,)),
        ((3, 8, 12), (2,)),
        ((1, 7, 13), (2,)),
        ((3, 16, 16), (2, 2)),
        ((3, 64, 61), (2, 2)),
        ((2, 9, 9), (3,)),
    ],
)
def test_pictures_of_any_size_are_reconstructed(shape, strides):
    assert make_loss(shape, strides)(th.rand(2, 2, *shape)).isfinite()


def test_pictures_whose_width_needs_a_larger_scale_are_reconstructed():
    assert make_loss((3, 9, 16), (2, 2))(th.rand(2, 2, 3, 9, 16)).isfinite()


def test_large_scores_do_not_overflow():
    feature_loss = make_loss(reconstruction_coef=0)
    feature_loss.bilinear.weight.data *= 1e6
    assert feature_loss(th.rand(4, 2, *SHAPE)).isfinite()


@pytest.mark.parametrize("literal", [(), ("frozen_reconstruction", "resampled_shift")])
def test_the_loss_falls_on_an_easy_batch(literal):
    th.manual_seed(0)
    feature_loss, frames = make_loss(literal=frozenset(literal)), th.zeros(8, 1, *SHAPE)
    for i in range(8):
        frames[i, 0, i % 3, i // 3 * 3 : i // 3 * 3 + 2] = 0.5  # a bar of another colour at another height
    optimizer = th.optim.Adam([p for p in feature_loss.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(300):
        loss = feature_loss(frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        feature_loss.update_target(0.05)
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def make_prototypes(**kwargs) -> PrototypeLoss:
    return PrototypeLoss(Encoder(SHAPE, [4], (2,), 0), SHAPE, **{**SMALL, "n_prototypes": 6, "pad": 1, **kwargs})


def test_sinkhorn_assigns_each_sample_once_and_fills_the_prototypes_alike():
    scores = th.randn(12, 4, generator=th.Generator().manual_seed(0))
    assignments = sinkhorn(scores, 100)
    assert th.allclose(assignments.sum(1), th.ones(12))
    assert th.allclose(assignments.sum(0), th.full((4,), 3.0), atol=1e-4)


def test_sinkhorn_by_hand():
    # exp: [[2, 1], [1, 1]]; prototypes to 1/2: [[1/3, 1/4], [1/6, 1/4]]; each sample to 1
    assert th.allclose(sinkhorn(th.tensor([[2.0, 1.0], [1.0, 1.0]]).log(), 1), th.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]]))


def test_the_prototype_loss_is_the_cross_entropy_against_the_next_frames_assignments():
    th.manual_seed(0)
    feature_loss, frames = make_prototypes(pad=0, temperature=0.5), th.rand(5, 3, *SHAPE) - 0.5
    unit = th.nn.functional.normalize
    rows = unit(feature_loss.prototypes.weight, dim=1)
    targets = sinkhorn(unit(feature_loss.target(frames[:, 2]), dim=1) @ rows.T / 0.5, 3)
    x = (unit(feature_loss.predictor(feature_loss.online(frames[:, 1])), dim=1) @ rows.T / 0.5).log_softmax(1)
    assert feature_loss(frames).item() == pytest.approx(-(targets * x).sum(1).mean().item(), rel=1e-4)


def test_the_prototypes_have_unit_length_when_they_are_used():
    feature_loss = make_prototypes()
    feature_loss.prototypes.weight.data.mul_(3)
    feature_loss(th.rand(4, 2, *SHAPE))
    assert th.allclose(feature_loss.prototypes.weight.norm(dim=1), th.ones(6))


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_the_gradient_of_the_prototype_loss_reaches_all_but_the_target(mixed_precision):
    feature_loss = make_prototypes()
    with th.autocast("cpu", th.bfloat16, enabled=mixed_precision):
        loss = feature_loss(th.rand(4, 2, *SHAPE) - 0.5)
    loss.backward()
    with_gradient = {name.split(".")[0] for name, p in feature_loss.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {"predictor", "prototypes", "online"}


def test_the_heads_start_orthogonal_with_gain_1():
    info_nce, prototypes = make_loss(), make_prototypes(n_prototypes=4)
    layers = [info_nce.online[1][1], info_nce.target[1][1], info_nce.predictor[2], info_nce.bilinear, prototypes.prototypes]
    for layer in layers:
        th.testing.assert_close(layer.weight @ layer.weight.T, th.eye(4), atol=1e-5, rtol=0)
    rows = info_nce.reconstruction[0].weight.flatten(1)
    th.testing.assert_close(rows @ rows.T, 2 * th.eye(len(rows)), atol=1e-5, rtol=0)
    assert not info_nce.predictor[0].bias.any() and not info_nce.reconstruction[0].bias.any()


def test_what_is_reconstructed_is_the_shifted_frame():
    feature_loss, frames = make_loss(), th.rand(5, 1, *SHAPE) - 0.5
    feature_loss.shift = lambda images, pad: images.roll(1, -1)
    losses = []
    for feature_loss.reconstruction_coef in (0.0, 1.0):
        losses.append(feature_loss(frames).item())
    view = frames[:, 0].roll(1, -1)
    error = (feature_loss.reconstruction(feature_loss.online[0](view)) - view).square().mean()
    assert losses[1] - losses[0] == pytest.approx(error.item(), rel=1e-3)


def test_both_frames_of_the_prototype_loss_are_shifted():
    feature_loss, shifted = make_prototypes(pad=3), []
    feature_loss.shift = lambda images, pad: shifted.append((images, pad)) or th.zeros_like(images)
    frames = th.rand(4, 3, *SHAPE)
    assert feature_loss(frames) == feature_loss(frames.flip(0) + 1)
    assert [pad for _, pad in shifted] == [3] * 4
    assert th.equal(shifted[0][0], frames[:, 2]) and th.equal(shifted[1][0], frames[:, 1])


@pytest.mark.parametrize("make", [make_loss, make_prototypes])
def test_the_observations_a_loss_asks_for_are_all_that_it_looks_at(make):
    feature_loss, frames = make(pad=0), th.rand(4, 3, *SHAPE) - 0.5
    th.testing.assert_close(feature_loss(frames[:, feature_loss.window]), feature_loss(frames))


def test_sinkhorn_takes_the_steps_asked_for():
    th.manual_seed(0)
    feature_loss, frames = make_prototypes(pad=0), th.rand(5, 2, *SHAPE) - 0.5
    losses = []
    for feature_loss.n_sinkhorn_steps in (0, 3):
        losses.append(feature_loss(frames).item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize("loss_class", [InfoNCE, PrototypeLoss])
def test_the_targets_come_of_the_momentum_copies(loss_class):
    th.manual_seed(0)
    sizes = {**SMALL, "pad": 0, **({"n_prototypes": 6} if loss_class is PrototypeLoss else {})}
    feature_loss, frames = loss_class(Encoder(SHAPE, [4], (2,), 0), SHAPE, **sizes), th.rand(5, 3, *SHAPE) - 0.5
    before = feature_loss(frames).item()
    for parameter in feature_loss.target.parameters():
        parameter.data.normal_()
    assert feature_loss(frames).item() != pytest.approx(before, rel=1e-3)


def test_large_scores_are_shared_out_as_their_differences_say():
    large, small = th.tensor([[300.0, 299.0], [299.0, 299.0]]), th.tensor([[1.0, 0.0], [0.0, 0.0]])
    th.testing.assert_close(sinkhorn(large, 1), sinkhorn(small, 1))
