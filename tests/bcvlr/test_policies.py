"""What the losses and statistics of ``BCVLRPolicy`` are; when they are used is tested in test_bcvlr_run.py."""

import math
import re

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch.nn import functional as F
from toys import TINY_NETWORKS, tiny_model

from sb3_bcvlr.bcvlr import BCVLRPolicy, CnnPolicy
from sb3_bcvlr.bcvlr.policies import N_LATENTS_KEPT

SPACE = spaces.Box(0, 255, (3, 16, 16), np.uint8)


def make_policy(n_history: int = 2, **kwargs) -> BCVLRPolicy:
    th.manual_seed(0)
    return BCVLRPolicy(SPACE, spaces.Discrete(3), n_history=n_history, **{**TINY_NETWORKS, **kwargs})


def random_frames(*shape: int) -> th.Tensor:
    return th.randint(256, (*shape, 3, 16, 16), dtype=th.uint8, generator=th.Generator().manual_seed(0))


def with_video_latents(policy: BCVLRPolicy) -> BCVLRPolicy:
    """Latent actions of videos around those of pi, three of them far away."""
    latent_actions = policy.imitate(random_frames(50), policy.latent_policy_average)
    policy.keep_video_latents(th.cat((latent_actions, latent_actions[:3] + 100)))
    return policy


@pytest.mark.parametrize(
    "size", [{"encoder_channels": 8}, {"encoder_strides": [0]}, {"action_decoder_dims": 8}, {"idm_hidden_dim": -1}], ids=str
)
def test_sizes_of_networks_that_are_none_are_refused(size):
    [(name, value)] = size.items()
    with pytest.raises(ValueError, match=rf"{name} is {re.escape(repr(value))}, expected"):
        make_policy(**size)


@pytest.mark.parametrize("n_neighbors", [1, 16])
def test_what_the_expert_did_mean_near_pis_latent_action_is_decoded(n_neighbors):
    policy = with_video_latents(make_policy(n_neighbors=n_neighbors))
    pictures, kept = random_frames(60)[50:], policy.video_latents[policy.n_same_before == 0]
    for latent_action, logits in zip(
        policy.imitate(pictures, policy.latent_policy_average), policy.decode(pictures), strict=True
    ):
        nearest = (kept - latent_action).square().sum(1).argsort(stable=True)[:n_neighbors]
        expected = policy.action_decoder(kept[nearest]).softmax(1).mean(0)
        th.testing.assert_close(logits.softmax(0), expected)


def test_the_policy_is_the_mean_of_what_disagreeing_neighbors_mean():
    policy = make_policy(n_neighbors=2)
    policy.keep_video_latents(th.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]]))
    policy.action_decoder = th.nn.Linear(4, 3, bias=False)
    policy.action_decoder.weight.data = th.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0.9, 1.9, 0, 0]])
    expected = policy.action_decoder(policy.video_latents[:2]).softmax(1).mean(0)
    th.testing.assert_close(policy.decode(random_frames(1))[0].softmax(0), expected)


def test_far_latent_actions_are_neighbors_before_a_near_one_is_twice():
    policy = make_policy(n_neighbors=16)
    latent_actions = 30 * th.randn(20, 4)
    policy.keep_video_latents(latent_actions)
    pictures = random_frames(1)
    distances = (latent_actions - policy.imitate(pictures, policy.latent_policy_average)).square().sum(1)
    expected = policy.action_decoder(latent_actions[distances.argsort()[:16]]).softmax(1).mean(0)
    th.testing.assert_close(policy.decode(pictures)[0].softmax(0), expected)


@pytest.mark.parametrize("action_coef", [0.0, 0.5])
def test_the_imitation_loss_of_discrete_actions_adds_the_cross_entropy_of_what_is_decoded(action_coef):
    policy = make_policy()
    imitated, latent_actions = th.randn(2, 20, 4)
    squared = (imitated - latent_actions).square().mean()
    log_decoded, meant = policy.action_decoder(imitated).log_softmax(1), policy.action_decoder(latent_actions).softmax(1)
    added = squared / latent_actions.var(0, unbiased=False).mean() - action_coef * (meant * log_decoded).sum(1).mean()
    th.testing.assert_close(policy.imitation_loss(imitated, latent_actions, action_coef), added if action_coef else squared)


def test_the_imitation_loss_of_continuous_actions_adds_the_squared_error_of_what_is_decoded():
    policy = BCVLRPolicy(SPACE, spaces.Box(-1, 1, (2,)), **TINY_NETWORKS)
    imitated, latent_actions = th.randn(2, 20, 4)
    squared = (imitated - latent_actions).square().mean() / latent_actions.var(0, unbiased=False).mean()
    decoded = (policy.action_decoder(imitated) - policy.action_decoder(latent_actions)).square().mean()
    th.testing.assert_close(policy.imitation_loss(imitated, latent_actions, 0.5), squared + 0.5 * decoded)


def test_continuous_actions_of_neighbors_are_averaged():
    space = spaces.Box(-1, 1, (2,))
    policy = with_video_latents(BCVLRPolicy(SPACE, space, **{**TINY_NETWORKS, "n_neighbors": 5}))
    pictures, kept = random_frames(1), policy.video_latents[policy.n_same_before == 0]
    distances = (kept - policy.imitate(pictures, policy.latent_policy_average)).square().sum(1)
    expected = policy.action_decoder(kept[distances.argsort(stable=True)[:5]]).mean(0)
    th.testing.assert_close(policy.decode(pictures)[0], expected)


@pytest.mark.parametrize("n_labels", [1, 10, N_LATENTS_KEPT + 7])
def test_the_latent_actions_that_are_kept_are_spread_evenly(n_labels):
    policy = make_policy()
    labels = th.arange(n_labels)[:, None] * th.ones(1, policy.video_latents.shape[1])
    policy.keep_video_latents(labels)
    kept = policy.video_latents[policy.n_same_before == 0, 0]
    assert kept[0] == 0 and kept[-1] == n_labels - 1 and len(kept) == min(n_labels, N_LATENTS_KEPT)
    assert set(kept.diff().unique().tolist()) <= {1, 2}


def test_few_latent_actions_are_each_a_neighbor_once_before_any_is_twice():
    policy = make_policy(n_neighbors=16)
    labels = policy.imitate(random_frames(20), policy.latent_policy_average)
    policy.keep_video_latents(labels)
    pictures = random_frames(1)
    distances = (labels - policy.imitate(pictures, policy.latent_policy_average)).square().sum(1)
    expected = policy.action_decoder(labels[distances.argsort()[:16]]).softmax(1).mean(0)
    th.testing.assert_close(policy.decode(pictures)[0].softmax(0), expected)


def test_all_latent_actions_are_asked_where_they_are_fewer_than_the_neighbors():
    policy = make_policy(n_neighbors=14)
    labels = policy.imitate(random_frames(7), policy.latent_policy_average)
    policy.keep_video_latents(labels)
    expected = policy.action_decoder(labels).softmax(1).mean(0)
    th.testing.assert_close(policy.decode(random_frames(1))[0].softmax(0), expected)


def test_cnn_policy_is_another_name():
    assert CnnPolicy is BCVLRPolicy


def test_pixels_are_scaled_to_plus_minus_a_half():
    assert BCVLRPolicy.scale(th.tensor([0, 51, 255], dtype=th.uint8)).tolist() == pytest.approx([-0.5, -0.3, 0.5])


@pytest.mark.parametrize("leading", [(2,), (2, 3), (2, 1, 4)])
def test_encode_keeps_the_leading_dimensions(leading):
    policy, frames = make_policy(), random_frames(*leading)
    features = policy.encode(frames)
    assert features.shape == (*leading, *policy.encoder.feature_shape)
    assert th.allclose(features.flatten(0, -4), policy.encoder(policy.scale(frames.flatten(0, -4))), atol=1e-6)


def test_the_gradient_stops_at_encode():
    policy = make_policy()
    features = policy.encode(random_frames(2))
    assert not features.requires_grad
    policy.latent_policy(features).sum().backward()
    assert all(parameter.grad is None for parameter in policy.encoder.parameters())


def test_fitted_features_have_zero_mean_and_unit_variance_in_each_channel():
    policy, frames = make_policy(), random_frames(8, 3)
    policy.fit_feature_statistics(frames)
    features = policy.encode(frames).transpose(0, 2).flatten(1)  # (C, all others)
    assert th.allclose(features.mean(1), th.zeros(4), atol=1e-4)
    assert th.allclose(features.std(1), th.ones(4), atol=1e-3)


def test_errors_are_counted_in_units_of_each_channels_change():
    policy, frames = make_policy(), random_frames(8, 3)
    policy.fit_feature_statistics(frames)
    features = policy.encode(frames)
    changes = (features[:, 1:] - features[:, :-1]) / policy.change_std
    assert th.allclose(changes.square().mean((0, 1, 3, 4)), th.ones(4), atol=1e-3)
    copying = policy.prediction_loss(features[:, :-1], th.randn(8, 4), features[:, -1])  # w copies at its start
    assert copying.item() == pytest.approx(changes[:, -1].square().mean().item(), rel=1e-4)


def test_a_residual_world_model_predicts_in_units_of_the_change():
    policy, past = make_policy(), th.randn(2, 2, 4, 8, 8)
    policy.change_std.fill_(3)
    policy.world_model = Constant(th.ones(2, 4, 8, 8))
    assert th.allclose(policy.predict_features(past, th.randn(2, 4)), past[:, -1] + 3)


def test_standardizing_gives_every_version_of_pytorch_the_eps_that_it_wants(monkeypatch):
    given = []
    batch_norm = F.batch_norm
    monkeypatch.setattr(
        F, "batch_norm", lambda *args, eps, **kwargs: given.append(eps) or batch_norm(*args, eps=eps, **kwargs)
    )
    make_policy().encode(random_frames(2, 3))
    assert given and min(given) > 0


def test_fitting_features_twice_is_fitting_them_once():
    policy, frames = make_policy(), random_frames(8, 3)
    policy.fit_feature_statistics(frames)
    first = policy.encode(frames)
    policy.fit_feature_statistics(frames)
    assert th.allclose(policy.encode(frames), first, atol=1e-3)


def test_latent_actions_have_zero_mean_in_each_dimension_and_one_variance_for_all():
    policy = make_policy()
    z = th.tensor([[0.0, 0, 5, 1], [4.0, 0, 5, 3]])  # variances 8, 0, 0 and 2: their mean is 2.5
    policy.fit_latent_statistics(z)
    assert policy.latent_mean.tolist() == [2, 0, 5, 2]
    assert policy.latent_std.item() == pytest.approx(math.sqrt(2.5), abs=1e-4)
    s = policy.standardized(z)
    assert s.var(0).mean().item() == pytest.approx(1, abs=1e-4)
    assert s[:, 1].tolist() == [0, 0]


def test_without_standardize_the_statistics_stay_neutral():
    model = tiny_model(policy_kwargs={"standardize": False}).pretrain()
    policy, z = model.policy, th.randn(3, model.policy.latent_mean.numel())
    assert (policy.feature_mean == 0).all() and (policy.feature_std == 1).all()
    assert th.equal(policy.standardized(z), z)


@pytest.mark.parametrize("names", [{"feature_mean", "feature_std", "change_std", "latent_mean", "latent_std"}])
def test_statistics_are_saved_with_the_parameters(names):
    assert names <= set(make_policy().state_dict())


def test_frame_differences_are_the_changes_and_then_the_newest_frame():
    policy, features = make_policy(), th.tensor([1.0, 3.0, 7.0]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 1, 1)
    policy.change_std.fill_(2)
    assert policy._differences(features)[0, :, 0].flatten().tolist() == [1, 2, 7]


def test_without_frame_differences_the_frames_are_seen_as_they_are():
    features = th.tensor([1.0, 3.0, 7.0]).view(1, 3, 1, 1, 1)
    assert make_policy(frame_differences=False)._differences(features).flatten().tolist() == [1, 3, 7]


def test_one_frame_of_the_past_has_no_changes():
    features = th.randn(2, 1, 4, 8, 8)
    assert th.equal(make_policy(n_history=1)._differences(features), features)


@pytest.mark.parametrize("frame_differences", [True, False])
def test_a_residual_world_model_copies_the_newest_frame_with_and_without_differences(frame_differences):
    policy = make_policy(frame_differences=frame_differences)
    past = th.randn(2, 2, *policy.encoder.feature_shape)
    assert th.equal(policy.predict_features(past, th.randn(2, 4)), past[:, -1])


@pytest.mark.parametrize("coefficient", [0.0, 0.05, 3.0])
def test_the_latent_action_loss_is_the_prediction_error_plus_the_weighted_commitment(coefficient):
    policy, frames = make_policy().eval(), random_frames(5, 3)
    latent_actions, loss = policy.latent_dynamics(frames, coefficient)
    features = policy.encode(frames)
    quantized, _, _ = policy.idm.quantizer(latent_actions)
    prediction_error = ((features[:, 1] - features[:, 2]) ** 2).mean()  # w copies at its start
    commitment = ((latent_actions - quantized) ** 2).mean()
    assert latent_actions.shape == (5, 4)
    assert loss.item() == pytest.approx((prediction_error + coefficient * commitment).item(), rel=1e-4)


def test_the_latent_action_loss_reaches_idm_and_world_model_only():
    policy = make_policy(residual_world_model=False)
    policy.latent_dynamics(random_frames(5, 3), 0.05)[1].backward()
    reached = {name.split(".")[0] for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"idm", "world_model"}


def test_the_world_model_meets_the_quantized_latent_action():
    policy, met = make_policy().eval(), []
    policy.world_model.register_forward_pre_hook(lambda module, inputs: met.append(inputs[1]))
    policy.latent_dynamics(random_frames(5, 3), 0.05)
    for i in range(2):  # codebooks with codes of size 2 for one vector each
        distances = th.cdist(met[0][:, 2 * i : 2 * i + 2], policy.idm.quantizer.codes[i]).min(1).values
        assert (distances < 1e-3).all()


def test_the_action_loss_by_hand():
    policy = make_policy()
    policy.latent_mean.copy_(th.tensor([1.0, 1.0, 1.0, 1.0]))
    policy.latent_std.copy_(th.tensor(2.0))
    policy.action_decoder = th.nn.Linear(4, 3, bias=False)
    policy.action_decoder.weight.data = th.eye(3, 4)
    z = th.tensor([[5.0, 1.0, 1.0, 9.0], [1.0, 1.0, 1.0, 9.0]])  # standardized, cut to three: logits (2, 0, 0) and (0, 0, 0)
    loss, accuracy = policy.action_loss(policy.standardized(z), th.tensor([[0], [2]]))
    first, second = -math.log(math.exp(2) / (math.exp(2) + 2)), math.log(3)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert accuracy.item() == 0.5  # of equal logits the first counts, and the action was 2


def test_the_action_loss_reaches_the_idm():
    policy = make_policy()
    z = policy.latent_actions(policy.encode(random_frames(4, 3)))
    policy.action_loss(z, th.zeros(4, 1, dtype=th.int64))[0].backward()
    reached = {name.split(".")[0] for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"idm", "action_decoder"}


def test_diagnostics_of_a_world_model_that_copies():
    policy, frames = make_policy(), random_frames(6, 3)
    values = policy.dynamics_diagnostics(frames)
    features = policy.encode(frames)
    assert values["world_model_error"] == pytest.approx(F.mse_loss(features[:, 1], features[:, 2]).item(), rel=1e-5)
    assert values["error_to_copying"] == pytest.approx(1)
    assert values["error_to_shuffled"] == pytest.approx(1)  # a copy does not depend on the latent action


def test_diagnostics_of_a_world_model_that_knows():
    policy, frames = make_policy(residual_world_model=False), random_frames(6, 3)
    policy.rescale_idm(policy.latent_actions(policy.encode(frames)))  # so that the windows have codes of their own
    policy.world_model = Oracle(policy, frames)
    values = policy.dynamics_diagnostics(frames)
    assert values["world_model_error"] == pytest.approx(0, abs=1e-6)
    assert values["error_to_copying"] == pytest.approx(0, abs=1e-5)
    assert values["error_to_shuffled"] == pytest.approx(0, abs=1e-5)


class Constant(th.nn.Module):
    def __init__(self, output: th.Tensor):
        super().__init__()
        self.output = output

    def forward(self, *_):
        return self.output


class Oracle(th.nn.Module):
    """Predicts the future, rightly only with the latent actions in their own order."""

    def __init__(self, policy: BCVLRPolicy, frames: th.Tensor):
        super().__init__()
        self.future = policy.encode(frames)[:, -1]
        self.right_order: th.Tensor | None = None  # of the first call

    def forward(self, past, quantized):
        if self.right_order is None:
            self.right_order = quantized
            return self.future
        assert not th.equal(quantized, self.right_order)
        assert th.equal(quantized.sort(0).values, self.right_order.sort(0).values)
        return self.future + 1


def test_diagnostics_count_the_codes_in_use():
    policy = make_policy()
    policy.idm.head.weight.data.zero_()  # all windows have one latent action
    values = policy.dynamics_diagnostics(random_frames(6, 3))
    assert values["code_use"] == pytest.approx(1 / 8)
    assert values["perplexity"] == pytest.approx(2, abs=1e-4)  # 1 for each of two codebooks


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_reaches_each_network_whatever_it_was(training):
    policy = make_policy()
    policy.set_training_mode(training)
    policy.idm.train(not training)  # as p is while its learning rate is 0
    policy.set_training_mode(training)
    assert {module.training for module in policy.modules()} == {training}


@pytest.mark.parametrize("training", [True, False])
def test_diagnostics_change_nothing(training):
    policy = make_policy()
    policy.set_training_mode(training)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.dynamics_diagnostics(random_frames(6, 3))
    assert policy.training is training
    assert all(th.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_bounded_features_bound_the_world_model():
    policy = make_policy(literal=frozenset({"bounded_features"}))
    assert policy.world_model.bounded_output
    assert not make_policy().world_model.bounded_output


@pytest.mark.parametrize(("literal", "expected"), [((), 1.0), (("zero_counts",), 0.0)])
def test_zero_counts_start_the_quantizer_as_the_authors_do(literal, expected):
    policy = make_policy(literal=frozenset(literal), quantizer_kwargs=dict(codebook_size=4, revive_codes=False))
    assert (policy.idm.quantizer.counts == expected).all()


def test_without_arguments_the_quantizer_revives_its_codes():
    quantizer = make_policy(quantizer_kwargs=None).idm.quantizer
    assert quantizer.revive_codes
    assert quantizer.latent_dim == 2 * 4 * 4


def test_quantizer_kwargs_leave_the_other_defaults_as_they_are():
    quantizer = make_policy(quantizer_kwargs={"enabled": False}).idm.quantizer
    assert quantizer.bypass and quantizer.latent_dim == 32 and quantizer.revive_codes


def test_latent_policy_kwargs_leave_the_other_defaults_as_they_are():
    latent_policy = make_policy(latent_policy_kwargs={"hidden_dim": 8}).latent_policy
    assert latent_policy.head.in_features == 8


def test_the_default_networks_are_small():
    policy = BCVLRPolicy(spaces.Box(0, 255, (3, 64, 64), np.uint8), spaces.Discrete(15))
    assert sum(parameter.numel() for parameter in policy.parameters()) < 3e6


@pytest.mark.parametrize("kwargs", [{}, {"n_history": 1}, {"encoder_channels": (5,)}, {"share_encoder": False}])
def test_a_policy_saved_alone_can_be_loaded_alone(kwargs, tmp_path):
    policy = make_policy(**kwargs)
    policy.save(tmp_path / "policy.zip")
    loaded = BCVLRPolicy.load(tmp_path / "policy.zip", device="cpu")
    observation = random_frames(1)[0].numpy()
    assert policy.predict(observation, deterministic=True)[0] == loaded.predict(observation, deterministic=True)[0]


def test_a_policy_saved_alone_keeps_the_neighbors_that_were_set_since(tmp_path):
    policy = make_policy(n_neighbors=4)
    policy.n_neighbors = 2
    policy.save(tmp_path / "policy.zip")
    assert BCVLRPolicy.load(tmp_path / "policy.zip", device="cpu").n_neighbors == 2


def test_the_average_starts_with_the_same_weights_and_takes_no_gradient():
    policy = make_policy()
    average = policy.latent_policy_average
    assert average is not policy.latent_policy
    assert not any(parameter.requires_grad for parameter in average.parameters())
    features = th.randn(2, *policy.encoder.feature_shape)
    assert th.equal(average(features), policy.latent_policy(features))


def test_an_encoder_of_pis_own_starts_as_f():
    policy, frames = make_policy(share_encoder=False), random_frames(4)
    policy.fit_feature_statistics(random_frames(4, 3))
    encoder, head = policy.latent_policy
    assert encoder is not policy.encoder
    assert th.equal(policy.imitate(frames, policy.latent_policy), head(policy.encode(frames)))


def test_the_gradient_of_imitation_reaches_pis_own_encoder_and_not_f():
    policy = make_policy(share_encoder=False)
    policy.imitate(random_frames(2), policy.latent_policy).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.latent_policy.parameters())
    assert all(parameter.grad is None for parameter in policy.encoder.parameters())


def test_the_pi_that_acts_sees_through_its_own_encoder():
    policy, frames = make_policy(share_encoder=False), random_frames(2)
    before = policy.decode(frames)
    with th.no_grad():
        policy.encoder.net[0].bias += 1
    assert th.equal(policy.decode(frames), before)
    with th.no_grad():
        policy.latent_policy_average[0].net[0].bias += 1
    assert not th.equal(policy.decode(frames), before)


def test_the_features_that_w_is_to_predict_get_no_gradient():
    policy, features = make_policy(), th.randn(2, 4, 8, 8, requires_grad=True)
    loss = policy.prediction_loss(th.randn(2, 2, 4, 8, 8, requires_grad=True), th.randn(2, 4), features)
    loss.backward()
    assert features.grad is None


def test_a_rescaled_idm_has_zero_mean_and_unit_variance():
    policy = make_policy()
    features = policy.encode(random_frames(64, 3))
    policy.idm.head.bias.data += 3
    policy.rescale_idm(policy.latent_actions(features))
    z = policy.latent_actions(features)
    th.testing.assert_close(z.mean(0), th.zeros(4), atol=1e-2, rtol=0)
    th.testing.assert_close(z.std(0), th.ones(4), atol=1e-2, rtol=0)


def test_the_default_codes_follow_slowly():
    assert make_policy(quantizer_kwargs=None).idm.quantizer.decay == 0.99


def test_a_change_that_is_always_the_same_counts_as_a_change():
    policy = make_policy()
    frames = (th.arange(3) * 50).view(1, 3, 1, 1, 1).expand(4, 3, 3, 16, 16).to(th.uint8)
    policy.fit_feature_statistics(frames)
    features = policy.encode(frames)
    changes = (features[:, 1:] - features[:, :-1]) / policy.change_std
    th.testing.assert_close(changes.square().mean((0, 1, 3, 4)), th.ones(4), atol=1e-3, rtol=0)


UNITS = th.tensor([1.0, 2.0, 4.0, 8.0]).view(4, 1, 1)  # a usual change of each channel


def policy_of_units(**kwargs) -> BCVLRPolicy:
    policy = make_policy(**kwargs)
    policy.change_std.copy_(UNITS)
    return policy


def test_changes_are_seen_in_the_units_of_their_channel():
    features = th.tensor([1.0, 3.0, 7.0]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 1, 1)
    assert policy_of_units()._differences(features)[0, 0].flatten().tolist() == [2, 1, 0.5, 0.25]


def test_errors_of_the_world_model_count_in_the_units_of_their_channel():
    policy, past = policy_of_units(residual_world_model=False), th.zeros(2, 2, 4, 8, 8)
    policy.world_model = Constant(UNITS.expand(2, 4, 8, 8))
    assert policy.prediction_loss(past, th.zeros(2, 4), past[:, -1]).item() == pytest.approx(1)


def test_the_world_model_predicts_changes_in_the_units_of_their_channel():
    policy, past = policy_of_units(residual_world_model=True), th.randn(2, 2, 4, 8, 8)
    policy.world_model = Constant(th.ones(2, 4, 8, 8))
    th.testing.assert_close(policy.predict_features(past, th.randn(2, 4)), past[:, -1] + UNITS)


def test_copying_is_judged_in_the_same_units():
    policy = policy_of_units(residual_world_model=True)
    policy.world_model = Constant(th.zeros(6, 4, 8, 8))  # which copies
    assert policy.dynamics_diagnostics(random_frames(6, 3))["error_to_copying"] == pytest.approx(1)
