"""Both stages of ``BCVLR``: what moves, what is never looked at, what is refused, and what every argument does."""

import inspect
import math
import re
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, ReshapeObservation
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from toys import (
    SIZE,
    TINY_NETWORKS,
    ActionPictureEnv,
    DotEnv,
    Memory,
    darkening_video,
    equal,
    fake_videos,
    moved,
    needs_gpu,
    picture,
    snapshot,
    tiny_arguments,
    tiny_model,
)

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.bcvlr import BCVLRPolicy, bcvlr
from sb3_bcvlr.bcvlr.bcvlr import FALLING_RATE
from sb3_bcvlr.common import video_imitation
from sb3_bcvlr.common.augmentations import random_shift, resampled_shift
from sb3_bcvlr.common.contrastive import InfoNCE, PrototypeLoss
from sb3_bcvlr.common.files import read_csv
from sb3_bcvlr.common.video_imitation import VideoImitationAlgorithm, optimize
from sb3_bcvlr.common.video_io import write_video
from sb3_bcvlr.envs import ForagingEnv, grayscale, stack_frames

NO_STATISTICS = {"standardize": False}


def all_finite(model: BCVLR) -> bool:
    return all(tensor.isfinite().all() for tensor in snapshot(model).values())


def run(**overrides) -> dict[str, th.Tensor]:
    env = ActionPictureEnv(reward=overrides.pop("reward", 0.0))
    return snapshot(tiny_model(env, **overrides).learn(40))


# ---- what is never looked at ----


def test_rewards_of_nan_change_nothing():
    with_nan = run(reward=math.nan)
    assert equal(run(reward=1.0), with_nan)
    assert all(tensor.isfinite().all() for tensor in with_nan.values())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    assert equal(run(seed=3), run(seed=3))
    assert not equal(run(seed=3), run(seed=4))


def test_the_actions_of_lapo_chunks_are_never_read(tmp_path):
    chunk = fake_videos(1, 20)[0]
    done = np.arange(20) % 5 == 4
    np.savez(tmp_path / "0.npz", obs=chunk, done=done, ta=np.array([object] * 20, dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"), np.load(tmp_path / "0.npz") as arrays:
        _ = arrays["ta"]
    model = tiny_model(videos=tmp_path).learn(10)
    assert model.videos.n_episodes == 4
    assert all_finite(model)


# ---- which networks move ----


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("encoder", {"encoder"}),
        ("dynamics", {"idm", "world_model"}),
        ("imitation", {"latent_policy"}),
        (None, set()),
    ],
)
def test_each_stage_of_pretraining_moves_its_networks_only(stage, expected):
    steps = {f"pretrain_{name}_steps": 2 * (name == stage) for name in ("encoder", "dynamics", "imitation")}
    model = tiny_model(**steps, policy_kwargs=NO_STATISTICS)
    before = snapshot(model)
    model.pretrain()
    assert moved(before, snapshot(model)) == expected


def test_pretraining_the_latent_actions_moves_idm_codes_and_world_model():
    model = tiny_model(pretrain_encoder_steps=0, pretrain_imitation_steps=0, policy_kwargs=NO_STATISTICS)
    before = snapshot(model)
    model.pretrain()
    changed = {name for name, tensor in snapshot(model).items() if not th.equal(tensor, before[name])}
    assert {"idm.quantizer.codes", "idm.quantizer.counts", "idm.quantizer.sums", "idm.head.weight"} <= changed
    assert {name.rsplit(".", 1)[1] for name in changed if name.startswith("world_model")} >= {"weight", "running_mean"}


def test_pretraining_fits_the_statistics():
    model = tiny_model()
    before = snapshot(model)
    model.pretrain()
    statistics = {"feature_mean", "feature_std", "latent_mean", "latent_std"}
    assert statistics <= moved(before, snapshot(model))


def test_the_encoder_stage_trains_the_heads_of_the_feature_loss():
    Spy.made.clear()
    model = tiny_model(feature_loss_class=Spy)
    model.pretrain()
    (spy,) = Spy.made
    still = {name.split(".")[0] for name, tensor in spy.state_dict().items() if th.equal(tensor, spy.start[name])}
    assert not any(name in still for name in ("predictor", "bilinear", "reconstruction", "online", "target"))
    assert spy.online[0] is model.policy.encoder


class Spy(InfoNCE):
    """Remembers where it started."""

    made: list["Spy"] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.start = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.taus: list[float] = []
        self.made.append(self)

    def update_target(self, tau):
        self.taus.append(tau)
        super().update_target(tau)


def pretrained(**overrides) -> BCVLR:
    return tiny_model(**overrides).pretrain()


def test_online_only_idm_decoder_and_latent_policy_move():
    model = pretrained()
    before = snapshot(model)
    model.learn(20)
    assert moved(before, snapshot(model)) == {"idm", "action_decoder", "latent_policy"}


def test_online_the_codes_follow():
    model = pretrained()
    before = snapshot(model)
    model.learn(20)
    assert not th.equal(snapshot(model)["idm.quantizer.codes"], before["idm.quantizer.codes"])


def test_online_no_gradient_is_left_on_what_is_frozen():
    model = pretrained().learn(20)
    frozen = [*model.policy.encoder.parameters(), *model.policy.world_model.parameters()]
    assert not any(parameter.requires_grad for parameter in frozen)


@pytest.mark.parametrize("action_imitation_coef", [0.0, 1.0])
def test_online_imitation_leaves_the_idm_and_the_decoder_alone(action_imitation_coef):
    model = pretrained(action_imitation_coef=action_imitation_coef)
    before = snapshot(model)
    model._imitate_videos(3, model.latent_policy_optimizer)
    assert moved(before, snapshot(model)) == {"latent_policy"}


def test_an_encoder_of_pis_own_starts_as_f_was_pretrained():
    policy = pretrained(pretrain_imitation_steps=0, policy_kwargs={"share_encoder": False}).policy
    start = tiny_model().policy.encoder.state_dict()
    assert not equal(policy.encoder.state_dict(), start)
    for latent_policy in (policy.latent_policy, policy.latent_policy_average):
        assert equal(latent_policy[0].state_dict(), policy.encoder.state_dict())


def test_an_encoder_of_pis_own_learns_as_pi_clones_and_not_with_p_and_d():
    model = pretrained(tune_encoder=["online"], policy_kwargs={"share_encoder": False}).learn(10)
    before = snapshot(model)
    model._finetune(model.replay_buffer, 2, 4)
    tuned = snapshot(model)
    assert moved(before, tuned) == {"encoder", "idm", "action_decoder"}
    model._imitate_videos(3, model.latent_policy_optimizer)
    assert moved(tuned, snapshot(model)) == {"latent_policy"}
    assert not th.equal(model.policy.latent_policy[0].net[0].weight, tuned["latent_policy.0.net.0.weight"])


def test_online_imitation_clones_what_the_idm_reads_on_the_scale_of_the_decoder():
    model = pretrained(imitation_batch_size=7, imitation_pad=0)
    videos, policy, seen = model.videos, model.policy, []
    policy.latent_policy.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    indices = np.array([*range(7), *range(20, 13, -1)])  # two steps
    videos.sample_indices = lambda n: indices
    losses = model._imitate_videos(2, model.latent_policy_optimizer)
    features = policy.encode(videos.windows(indices).frames)
    labels = (policy.idm(policy._differences(features)) - policy.latent_mean) / policy.latent_std
    for step, batch in enumerate((slice(0, 7), slice(7, 14))):
        observed, predicted = seen[step]
        assert th.allclose(observed, features[batch, -2], atol=1e-5)
        assert losses[step].item() == pytest.approx(((predicted - labels[batch]) ** 2).mean().item(), rel=1e-4)


def test_what_the_decoder_makes_of_latent_actions_counts_online_alone():
    coefs = []
    for coef in (0.0, 1.0):
        model = tiny_model(action_imitation_coef=coef)
        imitation_loss = model.policy.imitation_loss
        model.policy.imitation_loss = lambda *args, loss=imitation_loss: coefs.append(args[-1]) or loss(*args)
        model.learn(10)
    assert coefs == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]  # two steps offline, two online


@pytest.mark.parametrize(("pad", "n_pictures"), [(0, 1), (1, 3)])  # only up and down are seen on these
def test_online_imitation_shifts_what_the_latent_policy_sees_by_up_to_the_pad(pad, n_pictures):
    model, pictures = pretrained(imitation_batch_size=200, imitation_pad=pad), []
    encode = model.policy.encode
    model.policy.encode = lambda frames: pictures.append(frames) or encode(frames)
    model.videos.sample_indices = lambda n: np.full(n, 3)
    model._imitate_videos(1, model.latent_policy_optimizer)
    assert len(th.unique(pictures[-1], dim=0)) == n_pictures  # the first ones were read for their label, as they are


@pytest.mark.parametrize("compile", [False, True])
def test_labels_are_what_the_idm_reads_in_each_window(monkeypatch, compile):
    monkeypatch.setattr(bcvlr, "N_ENCODED_TOGETHER", 5)
    model = pretrained()
    model.compile, model._compiled = compile, lambda function: function  # only chunks are those of compiled code
    indices = np.array([4, 4, 20, *range(19), 1])
    expected = model.policy.latent_actions(model.policy.encode(model.videos.windows(indices).frames))
    for n_at_once in (256, 3):
        monkeypatch.setattr(bcvlr, "N_AT_ONCE", n_at_once)
        th.testing.assert_close(model._label_videos(indices), expected, rtol=1e-4, atol=1e-5)


@needs_gpu
def test_labels_made_on_a_gpu_are_those_of_a_cpu(monkeypatch):
    monkeypatch.setattr(bcvlr, "N_ENCODED_TOGETHER", 8)
    monkeypatch.setattr(th.backends.cudnn, "allow_tf32", False)
    there, here = tiny_model(device="cuda"), tiny_model(device="cpu")
    there.policy.load_state_dict(here.policy.state_dict())
    indices = np.arange(19)
    expected = here._label_videos(indices)
    assert expected.std(0).min() > 1e-3
    th.testing.assert_close(there._label_videos(indices).cpu(), expected, rtol=1e-3, atol=1e-5)


def test_what_windows_have_in_common_is_encoded_once():
    model, n_encoded = pretrained(), []
    encode = model.policy.encode
    model.policy.encode = lambda observations: n_encoded.append(len(observations)) or encode(observations)
    model._label_videos(np.array([3, 4, 5, 5]))
    assert sum(n_encoded) == 5  # three windows of three frames each, one step apart


@pytest.mark.parametrize(("compile", "sizes"), [(False, [4, 4, 2]), (True, [4, 4, 4])])
def test_only_compiled_code_has_chunks_filled_up(monkeypatch, compile, sizes):
    monkeypatch.setattr(bcvlr, "N_AT_ONCE", 4)
    model, n_encoded, n_read = pretrained(), [], []
    model.compile, model._compiled = compile, lambda function: function
    encode, read = model.policy.encode, model.policy.latent_actions
    model.policy.encode = lambda frames: n_encoded.append(len(frames)) or encode(frames)
    model.policy.latent_actions = lambda features: n_read.append(len(features)) or read(features)
    assert len(model._label_videos(np.array([7, 9, 11, 7, 8, 9, 10, 11, 11, 12]))) == 10
    assert n_read == sizes and len({*n_encoded}) == 1 if compile else n_read == sizes


def test_pictures_are_gathered_once_for_all_labels_that_are_read_together(monkeypatch):
    monkeypatch.setattr(bcvlr, "N_AT_ONCE", 4)
    model, gathered = pretrained(), []
    gather = model.videos.observations_at
    model.videos.observations_at = lambda numbers: gathered.append(len(numbers)) or gather(numbers)
    model._label_videos(np.arange(19))
    assert len(gathered) == 1


def test_the_average_of_the_latent_policy_follows_each_step_by_policy_tau():
    model = pretrained(policy_tau=0.25)
    policy, optimizer = model.policy, model.latent_policy_optimizer
    average, learned = (each.head.weight.clone() for each in (policy.latent_policy_average, policy.latent_policy))
    assert not th.equal(average, learned)
    expected = average
    for _ in range(2):
        model._imitate_videos(1, optimizer)
        expected = 0.75 * expected + 0.25 * policy.latent_policy.head.weight
    th.testing.assert_close(policy.latent_policy_average.head.weight, expected.detach())


class NormalizedLatentPolicy(th.nn.Sequential):
    def __init__(self, feature_shape, latent_dim):
        super().__init__(th.nn.Flatten(), th.nn.BatchNorm1d(math.prod(feature_shape)), th.nn.LazyLinear(latent_dim))
        self(th.zeros(2, *feature_shape))


def test_the_average_has_the_statistics_of_the_latent_policy_that_learns():
    networks = {"latent_policy_class": NormalizedLatentPolicy, "latent_policy_kwargs": {}}
    policy = pretrained(policy_tau=0.25, policy_kwargs=networks).policy
    assert policy.latent_policy[1].num_batches_tracked > 1
    assert equal(dict(policy.latent_policy[1].named_buffers()), dict(policy.latent_policy_average[1].named_buffers()))


@pytest.mark.parametrize(("env", "videos", "expected"), [(ActionPictureEnv, fake_videos, 16), (DotEnv, lambda: None, 0)])
def test_neighbors_are_asked_where_actions_are_discrete(env, videos, expected):
    model = tiny_model(env(), videos(), n_neighbors=None)
    assert model.n_neighbors == model.policy.n_neighbors == expected


def test_the_neighbors_are_what_pi_clones(monkeypatch):
    model = tiny_model()
    label, labels = model._label_videos, []
    monkeypatch.setattr(model, "_label_videos", lambda indices: labels.append(label(indices)) or labels[-1])
    model.pretrain()
    kept = model.policy.video_latents
    assert {*map(tuple, kept.tolist())} == {*map(tuple, model.policy.standardized(labels[-1]).tolist())}
    before = kept.clone()
    assert not th.equal(before, model.learn(20).policy.video_latents)


def test_as_many_neighbors_as_are_kept_may_be_asked():
    assert tiny_model(n_neighbors=4096).n_neighbors == 4096


def test_other_neighbors_are_acted_by_in_rollouts_too():
    model = tiny_model().learn(10)
    _, before = model._graphed_steps["decode"]
    model.n_neighbors = 3
    _, after = model.learn(10)._graphed_steps["decode"]
    assert after is not before


def test_more_neighbors_than_are_kept_are_refused():
    with pytest.raises(ValueError, match="n_neighbors is 5000, expected at most the 4096 that are kept"):
        tiny_model(n_neighbors=5000)


@pytest.mark.parametrize("value", [5000, -3, 2.5, "a", True])
def test_neighbors_that_are_no_number_of_those_kept_are_refused_later_too(value):
    model = tiny_model(n_neighbors=4)
    with pytest.raises(ValueError, match=f"n_neighbors is {value!r}, expected"):
        model.n_neighbors = value
    assert model.n_neighbors == model.policy.n_neighbors == 4


def test_no_number_of_neighbors_is_the_default_later_too():
    model = tiny_model(n_neighbors=4)
    model.n_neighbors = None
    assert model.n_neighbors == model.policy.n_neighbors == 16


@pytest.mark.parametrize("switch", [{"compile": "no"}, {"compile": None}, {"mixed_precision": "no"}], ids=str)
def test_a_switch_that_is_neither_on_nor_off_is_refused(switch):
    [(name, value)] = switch.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected one of"):
        tiny_model(**switch)


@pytest.mark.parametrize("policy_tau", [0, 1.5])
def test_a_policy_tau_that_averages_nothing_is_refused(policy_tau):
    with pytest.raises(ValueError, match=f"policy_tau is {policy_tau}, expected"):
        tiny_model(policy_tau=policy_tau)


@pytest.mark.parametrize(("pad", "n_windows"), [(0, 1), (1, 3)])  # only up and down are seen on these
def test_the_dynamics_see_windows_that_are_shifted_as_a_whole(pad, n_windows):
    model, windows = pretrained(dynamics_pad=pad), []
    latent_dynamics = model.policy.latent_dynamics
    model.policy.latent_dynamics = lambda frames, coef: windows.append(frames) or latent_dynamics(frames, coef)
    window = model.videos.windows(np.full(200, 3)).frames
    model._latent_dynamics(window)
    shifted = th.unique(windows[0], dim=0)
    assert len(shifted) == n_windows
    assert windows[0].shape == window.shape
    still = model.videos.windows(np.full(200, 3)).frames[:, :1].expand_as(window)
    model._latent_dynamics(still)
    assert (windows[1] == windows[1][:, :1]).all()  # what does not move in a window does not begin to


def test_the_world_model_coefficient_weights_what_it_says_of_the_idm():
    heads = []
    for coefficient in (1e-5, 100.0):
        model = pretrained(world_model_coef=coefficient, gradient_steps=1).learn(10)
        heads.append(model.policy.idm.head.weight.clone())
    assert not th.equal(*heads)


def test_pretraining_twice_goes_on():
    model = pretrained()
    model.pretrain()
    assert model.pretrained
    assert all_finite(model)


def test_pretraining_again_trains_the_encoder_again():
    model = pretrained()
    before = snapshot(model)
    model.pretrain()
    assert "encoder" in moved(before, snapshot(model))


@pytest.mark.parametrize("n_steps", [{"imitation_steps": 1}, {"gradient_steps": 1}])
def test_single_steps_suffice(n_steps):
    assert all_finite(pretrained(**n_steps).learn(10))


def test_no_imitation_steps_online_leave_the_latent_policy_as_pretrained():
    model = pretrained(imitation_steps=0)
    before = snapshot(model)
    model.learn(10)
    assert moved(before, snapshot(model)) == {"idm", "action_decoder"}


def test_gradient_steps_of_minus_1_are_as_many_as_there_were_steps():
    assert pretrained(gradient_steps=-1).learn(10)._n_updates == 10


@pytest.mark.parametrize(("interval", "n_updates"), [(1, 6), (2, 3), (4, 1)])
def test_the_target_follows_at_its_interval(interval, n_updates):
    Spy.made.clear()
    pretrained(feature_loss_class=Spy, pretrain_encoder_steps=6, target_update_interval=interval, tau=0.3)
    assert Spy.made[0].taus == [0.3] * n_updates


def test_gradients_are_clipped_to_their_norm():
    weight = th.nn.Parameter(th.zeros(2))
    optimizer = th.optim.SGD([weight], lr=1.0)
    optimize(optimizer, (weight * th.tensor([30.0, 40.0])).sum(), max_grad_norm=5.0)
    assert weight.tolist() == pytest.approx([-3, -4], rel=1e-4)


def test_optimize_forgets_the_gradient_of_the_step_before():
    weight = th.nn.Parameter(th.zeros(1))
    optimizer = th.optim.SGD([weight], lr=1.0)
    for _ in range(2):
        optimize(optimizer, 3 * weight.sum())
    assert weight.tolist() == [-6]


@pytest.mark.parametrize(
    ("name", "network", "rest"),
    [
        ("encoder_learning_rate", "encoder", {"idm", "world_model", "latent_policy"}),
        ("dynamics_learning_rate", "world_model", {"encoder", "idm", "latent_policy"}),  # of the idm, the codes move still
        ("imitation_learning_rate", "latent_policy", {"encoder", "idm", "world_model"}),
    ],
)
def test_each_stage_of_pretraining_has_its_learning_rate(name, network, rest):
    model = tiny_model(policy_kwargs=NO_STATISTICS, **{name: 0.0})
    before = snapshot(model)
    after = snapshot(model.pretrain())
    of_network = [key for key in before if key.startswith(network) and "running" not in key and "tracked" not in key]
    assert all(th.equal(before[key], after[key]) for key in of_network)
    assert rest <= moved(before, after)


def test_each_stage_has_its_batch_size():
    sizes = dict(encoder_batch_size=5, dynamics_batch_size=6, imitation_batch_size=7, batch_size=8)
    model, met = tiny_model(**sizes), []
    networks = (model.policy.encoder, model.policy.idm, model.policy.latent_policy, model.policy.action_decoder)
    for network in networks:
        network.register_forward_hook(
            lambda module, _, output: met.append((module, len(output))) if output.requires_grad else None
        )
    model.pretrain()
    assert [{size for module, size in met if module is network} for network in networks] == [{5}, {6}, {7}, set()]
    met.clear()
    model.learn(10)
    assert [{size for module, size in met if module is network} for network in networks] == [set(), {8}, {7}, {8}]


def test_only_the_gradients_of_the_latent_actions_offline_are_clipped(monkeypatch):
    norms, clip = [], th.nn.utils.clip_grad_norm_
    monkeypatch.setattr(th.nn.utils, "clip_grad_norm_", lambda p, norm: norms.append((len(p), norm)) or clip(p, norm))
    model = tiny_model(max_grad_norm=1.5).learn(10)
    n_parameters = len([*model.policy.idm.parameters(), *model.policy.world_model.parameters()])
    assert norms == [(n_parameters, 1.5)] * 2  # pretrain_dynamics_steps


# ---- literal ----


@pytest.mark.parametrize("literal", [(), ("frozen_reconstruction",)])
def test_literal_frozen_reconstruction(literal):
    Spy.made.clear()
    pretrained(feature_loss_class=Spy, literal=literal)
    spy = Spy.made[0]
    names = [name for name in spy.start if name.startswith("reconstruction")]
    assert all(th.equal(spy.state_dict()[name], spy.start[name]) for name in names) is bool(literal)


@pytest.mark.parametrize(("literal", "shift"), [((), random_shift), (["resampled_shift"], resampled_shift)])
def test_literal_resampled_shift(literal, shift):
    Spy.made.clear()
    pretrained(feature_loss_class=Spy, literal=literal)
    assert Spy.made[0].shift is shift


@pytest.mark.parametrize(("literal", "crosses"), [((), False), (("cross_episodes",), True)])
def test_literal_cross_episodes(literal, crosses):
    model = tiny_model(literal=literal)
    assert len(model.videos) == (3 * 8 - 1 if crosses else 3 * 7)
    assert model.replay_buffer.cross_episodes is crosses


@pytest.mark.parametrize(("literal", "bounded"), [((), False), (("bounded_features",), True)])
def test_literal_bounded_features(literal, bounded):
    assert tiny_model(literal=literal).policy.world_model.bounded_output is bounded


def codes_after_first_batch(literal, quantizer_kwargs) -> float:
    model = tiny_model(literal=literal, policy_kwargs={"quantizer_kwargs": quantizer_kwargs})
    quantizer = model.policy.idm.quantizer.train()
    quantizer(th.linspace(-1, 1, quantizer.latent_dim).repeat(4, 1) / 100)
    return quantizer.codes.abs().max().item()


@pytest.mark.parametrize(("literal", "explode"), [((), False), (("zero_counts",), True)])
def test_literal_zero_counts(literal, explode):
    assert (codes_after_first_batch(literal, dict(code_dim=2, n_latents=1)) > 1) is explode


def test_literal_zero_counts_acts_on_the_default_quantizer_too():
    assert codes_after_first_batch(("zero_counts",), None) > 1


@pytest.mark.parametrize(("literal", "n_expected"), [((), 2), (("double_codebook_update",), 4)])
def test_literal_double_codebook_update(literal, n_expected):
    model, updates = pretrained(literal=literal, gradient_steps=2), []
    follow = model.policy.idm.quantizer._follow
    model.policy.idm.quantizer._follow = lambda *args: updates.append(follow(*args))
    model.learn(10)
    assert len(updates) == n_expected


def test_literal_world_model_batch_statistics():
    model = pretrained(literal=("world_model_batch_statistics",))
    before = snapshot(model)
    model.learn(20)
    changed = {name for name, tensor in snapshot(model).items() if not th.equal(tensor, before[name])}
    of_world_model = {name.rsplit(".", 1)[1] for name in changed if name.startswith("world_model")}
    assert of_world_model == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("literal", sorted(BCVLR.literal_choices))
def test_every_literal_behaviour_runs(literal):
    assert all_finite(tiny_model(literal=[literal]).learn(10))


def test_all_literal_behaviours_run_together():
    assert all_finite(tiny_model(literal=BCVLR.literal_choices).learn(10))


# ---- what is refused ----


class PlainEnv(gym.Env):
    """Black pictures of any shape, any action."""

    def __init__(self, shape, action_space=None):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = action_space or spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action):
        return np.zeros(self.observation_space.shape, np.uint8), 0.0, False, False, {}


def test_unknown_literal_behaviours_are_refused():
    with pytest.raises(ValueError, match=r"\['bounded', 'counts'\] is not known; choose from \['bounded_features'"):
        tiny_model(literal=["counts", "zero_counts", "bounded"])


def test_actions_that_are_neither_discrete_nor_continuous_are_refused():
    with pytest.raises(ValueError, match=r"acts in MultiBinary.*expected Discrete or a bounded Box"):
        tiny_model(PlainEnv((SIZE, SIZE, 3), spaces.MultiBinary(2)))


def test_observations_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"expected images: a Box of shape \(H, W, C\)"):
        tiny_model("CartPole-v1")


def test_no_environment_is_refused():
    with pytest.raises(ValueError, match="environment"):
        BCVLR(None, fake_videos())


def test_videos_of_another_size_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"videos have shape \(3, 8, 8\) but the environment gives \(3, 16, 16\)"):
        tiny_model(videos=VideoDataset(fake_videos(), image_size=8))


def test_videos_with_another_history_are_refused_with_both():
    with pytest.raises(ValueError, match="cut with n_history=1, the model expects n_history=2"):
        tiny_model(videos=VideoDataset(fake_videos(), n_history=1), n_history=2)


def test_the_history_follows_the_videos_that_are_given():
    assert tiny_model(videos=VideoDataset(fake_videos(), n_history=3)).policy.n_history == 3


def test_stacked_frames_need_no_further_history():
    assert tiny_model(stack_frames(ActionPictureEnv(), 2)).n_history == 1 and tiny_model().n_history == 2


@pytest.mark.parametrize("method", [lambda model: model.learn(10), lambda model: model.pretrain()])
def test_learning_without_videos_is_refused(method):
    with pytest.raises(ValueError, match=r"no videos to learn from: `BCVLR\(env, videos=...\)`"):
        method(BCVLR(ActionPictureEnv(), **tiny_arguments()))


def test_learning_without_environment_is_refused():
    model = tiny_model()
    model.env = None
    with pytest.raises(ValueError, match=r"no environment to learn in: `BCVLR.load\(path, env=env\)`"):
        model.learn(10)


def test_training_waits_until_there_is_a_window():
    model = pretrained(learning_starts=0, rollout_steps=1).learn(1)
    assert model._n_updates == 0
    assert model.learn(2, reset_num_timesteps=False)._n_updates == 4


def test_a_pretraining_that_was_interrupted_goes_on_with_the_stage(monkeypatch):
    model = tiny_model()
    compute_loss = model._latent_dynamics
    monkeypatch.setattr(model, "_latent_dynamics", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.pretrain()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        model.pretrain()
    assert equal(before, snapshot(model))  # p is not scaled again, which w would not know
    monkeypatch.setattr(model, "_latent_dynamics", compute_loss)
    model.pretrain()
    assert moved(before, snapshot(model)) >= {"idm", "world_model", "latent_policy"}
    assert "encoder" not in moved(before, snapshot(model))


def test_a_repeated_pretraining_that_was_interrupted_is_finished_before_learning(monkeypatch):
    model = tiny_model(quantizer_warmup_steps=1).learn(20)
    monkeypatch.setattr(model, "_latent_dynamics", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.pretrain()
    assert not model.pretrained and model.policy.idm.quantizer.bypass
    monkeypatch.undo()
    before = snapshot(model)
    model.learn(10, reset_num_timesteps=False)
    assert model.pretrained and not model.policy.idm.quantizer.bypass
    assert "encoder" not in moved(before, snapshot(model))  # its stage was finished


def test_parameters_of_another_end_a_pretraining_that_was_interrupted(monkeypatch):
    model, parameters = tiny_model(quantizer_warmup_steps=1), pretrained().get_parameters()
    monkeypatch.setattr(model, "_latent_dynamics", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.pretrain()
    assert model.policy.idm.quantizer.bypass
    model.set_parameters(parameters)
    assert not model.policy.idm.quantizer.bypass
    monkeypatch.undo()
    before = snapshot(model)
    assert "encoder" in moved(before, snapshot(model.pretrain()))  # the first stage again


@pytest.mark.parametrize("name", ["idm_learning_rate", "action_decoder_learning_rate", "world_model_learning_rate"])
def test_numbers_of_numpy_serve_as_rates(name):
    rates = [group["lr"] for group in tiny_model(**{name: np.float32(0.5)}).learn(10).finetune_optimizer.param_groups]
    assert 0.5 in rates


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rate": np.float32(0.5)},
        {"rollout_steps": np.int64(10)},
        {"train_freq": np.int64(10)},
        {"train_freq": (np.int64(1), "episode")},
        {"stats_window_size": np.int64(5)},
    ],
)
def test_numbers_of_numpy_serve_where_sb3_knows_none(given):
    assert tiny_model(**given).learn(10)._n_updates > 0


def test_a_finished_pretraining_can_be_repeated():
    model = tiny_model().pretrain()
    before = snapshot(model)
    assert moved(before, snapshot(model.pretrain())) >= {"encoder", "idm", "world_model", "latent_policy"}


def test_the_base_leaves_pretraining_to_its_children():
    with pytest.raises(NotImplementedError):
        VideoImitationAlgorithm.pretrain(tiny_model())


# ---- when ----


def test_learn_pretrains_once(monkeypatch):
    calls, pretrain = [], BCVLR.pretrain
    monkeypatch.setattr(BCVLR, "pretrain", lambda self, **kwargs: calls.append(1) or pretrain(self, **kwargs))
    tiny_model().learn(10).learn(10)
    assert len(calls) == 1


def test_learn_does_not_pretrain_what_is_pretrained():
    model = pretrained()
    before = snapshot(model)
    model.learning_starts = 1000
    assert equal(snapshot(model.learn(10)), before)


def count_random_steps(model: BCVLR, monkeypatch) -> list[int]:
    samples, sample = [], model.action_space.sample
    monkeypatch.setattr(model.action_space, "sample", lambda: samples.append(1) or sample())
    return samples


@pytest.mark.parametrize(
    ("n_envs", "learning_starts", "n_expected"), [(1, 9, 10), (1, 12, 20), (1, 0, 0), (4, 9, 12), (1, 100, 20)]
)
def test_steps_are_random_until_the_first_update_after_learning_starts(n_envs, learning_starts, n_expected, monkeypatch):
    model = tiny_model(DummyVecEnv([ActionPictureEnv] * n_envs), learning_starts=learning_starts)
    model.pretrained = True
    samples = count_random_steps(model, monkeypatch)
    model.learn(20)
    assert len(samples) == n_expected


def test_a_second_learn_makes_no_random_steps(monkeypatch):
    model = tiny_model().learn(20)
    samples = count_random_steps(model, monkeypatch)
    model.learn(20)
    assert not samples


def test_a_second_learn_trains_after_its_first_rollout():
    model = tiny_model(learning_starts=25).learn(40)
    n_updates = model._n_updates
    model.learn(20)
    assert model._n_updates == n_updates + 2 * 2
    assert model.learning_starts == 25


def test_a_second_learn_still_makes_random_steps_if_the_first_never_trained(monkeypatch):
    model = tiny_model(learning_starts=15)
    model.pretrained = True
    model.learn(10)
    samples = count_random_steps(model, monkeypatch)
    model.learn(20)
    assert len(samples) == 20


@pytest.mark.parametrize(
    ("n_envs", "arguments", "total", "expected"),
    [
        (1, dict(rollout_steps=10, learning_starts=9), 30, [10, 20, 30]),
        (1, dict(rollout_steps=10, learning_starts=10), 30, [20, 30]),  # more than learning_starts
        (2, dict(rollout_steps=10, learning_starts=9), 30, [10, 20, 30]),
        (4, dict(rollout_steps=10, learning_starts=9), 24, [12, 24]),  # three steps in each
        (4, dict(rollout_steps=2, learning_starts=9), 16, [12, 16]),  # at least one in each
        (2, dict(train_freq=5, learning_starts=9), 30, [10, 20, 30]),  # overrules the 10 rollout_steps of the toy
        (1, dict(train_freq=(3, "step"), learning_starts=0), 9, [3, 6, 9]),
        (1, dict(train_freq=(1, "episode"), learning_starts=9), 28, [14, 21, 28]),  # episodes of 7 steps
    ],
)
def test_training_comes_after_each_rollout(n_envs, arguments, total, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(BCVLR, "train", lambda self, gradient_steps, batch_size: calls.append(self.num_timesteps))
    model = tiny_model(DummyVecEnv([ActionPictureEnv] * n_envs), **arguments)
    model.pretrained = True
    model.learn(total)
    assert calls == expected


# ---- environments and videos of all kinds ----


@pytest.mark.parametrize(
    "make_env",
    [
        ActionPictureEnv,
        lambda: ActionPictureEnv(channels_first=True),
        lambda: DummyVecEnv([ActionPictureEnv] * 3),
        lambda: DummyVecEnv([lambda: ActionPictureEnv(channels_first=True)] * 2),
        lambda: SubprocVecEnv([ActionPictureEnv] * 2, start_method="fork"),
        lambda: VecMonitor(DummyVecEnv([ActionPictureEnv] * 2)),
    ],
    ids=["gym", "gym channels first", "dummy", "dummy channels first", "subproc", "monitor"],
)
def test_environments_of_all_kinds(make_env):
    env = make_env()
    model = tiny_model(env).learn(30)
    assert model.observation_space.shape == (3, SIZE, SIZE)
    assert model._n_updates >= 4
    assert all_finite(model)
    model.get_env().close()


def test_channels_first_and_last_learn_the_same():
    assert equal(*(snapshot(tiny_model(ActionPictureEnv(channels_first=first)).learn(20)) for first in (False, True)))


def test_an_environment_given_by_its_id():
    env = ForagingEnv()
    frames = [env.reset(seed=0)[0], *(env.step(env.expert_action())[0] for _ in range(8))]
    model = tiny_model("sb3_bcvlr/Foraging-v0", np.stack(frames)).learn(10)
    assert model.action_space.n == 4
    assert all_finite(model)


@pytest.mark.parametrize("kind", ["dataset", "folder", "array", "list"])
def test_videos_of_all_kinds(kind, tmp_path):
    videos = fake_videos()
    if kind == "folder":
        for i, frames in enumerate(videos):
            write_video(tmp_path / f"{i}.mp4", frames)
    given = {"dataset": VideoDataset(videos), "folder": str(tmp_path), "array": videos[0], "list": videos}[kind]
    model = tiny_model(videos=given).learn(10)
    assert len(model.videos) == (7 if kind == "array" else 21)
    assert all_finite(model)


def test_videos_of_another_size_are_resized_unless_they_come_as_a_dataset():
    assert tiny_model(videos=np.zeros((5, 40, 40, 3), np.uint8)).videos.observation_shape == (3, SIZE, SIZE)


@pytest.mark.parametrize(("channels", "n_stack"), [(1, 1), (3, 1), (4, 4), (6, 2)])
def test_videos_are_made_gray_and_stacked_as_the_environment(channels, n_stack):
    videos = tiny_model(PlainEnv((SIZE, SIZE, channels))).videos
    assert videos.observation_shape == (channels, SIZE, SIZE)
    assert videos.n_stack == n_stack


def test_stacked_frames_learn():
    assert all_finite(tiny_model(stack_frames(ActionPictureEnv(), 2)).learn(20))


def test_checking_the_stacks_does_not_use_up_the_seed():
    def model():
        return tiny_model(stack_frames(gym.make("sb3_bcvlr/Foraging-v0"), 2), darkening_video(9, 32, 32))

    whole, apart = model().learn(20), model().pretrain().learn(20)
    assert (whole.replay_buffer.frames == apart.replay_buffer.frames).all()
    assert (whole.replay_buffer.actions == apart.replay_buffer.actions).all()


def test_frames_stacked_in_another_way_than_the_videos_are_refused():
    env = VecFrameStack(DummyVecEnv([ActionPictureEnv] * 2), n_stack=2)
    with pytest.raises(ValueError, match=r"begin with black frames.*stack_frames"):
        tiny_model(env)


@pytest.mark.parametrize("n_history", [1, 3])
def test_histories_of_any_length_learn(n_history):
    model = tiny_model(n_history=n_history).learn(20)
    assert model.videos.n_history == model.replay_buffer.n_history == model.policy.n_history == n_history
    assert all_finite(model)


def test_pictures_that_are_no_squares_learn():
    assert all_finite(tiny_model(PlainEnv((12, 18, 3)), darkening_video(9, 12, 18)).learn(20))


@pytest.mark.parametrize("n_stack", [1, 2])
def test_videos_in_which_nothing_moves_are_refused(n_stack):
    env = stack_frames(ActionPictureEnv(), n_stack) if n_stack > 1 else ActionPictureEnv()
    model = tiny_model(env, [np.zeros((9, SIZE, SIZE, 3), np.uint8), np.full((9, SIZE, SIZE, 3), 7, np.uint8)])
    with pytest.raises(ValueError, match=r"Nothing moves in the videos"):
        model.learn(20)


def test_videos_in_which_hardly_anything_moves_are_not_called_still(monkeypatch):
    monkeypatch.setattr(video_imitation, "N_LOOKED_AT", 2)
    still = np.zeros((9, SIZE, SIZE, 3), np.uint8)
    assert tiny_model(videos=[still, *fake_videos(), still]).pretrain().pretrained


def test_still_videos_beside_others_are_learned_from():
    assert all_finite(tiny_model(videos=[np.zeros((9, SIZE, SIZE, 3), np.uint8), *fake_videos()]).learn(20))


def test_without_standardization_and_differences_it_learns():
    kwargs = {"standardize": False, "frame_differences": False, "residual_world_model": False}
    assert all_finite(tiny_model(policy_kwargs=kwargs).learn(20))


def test_the_default_networks_learn():
    arguments = tiny_arguments()
    arguments["policy_kwargs"] = None
    assert all_finite(BCVLR(ActionPictureEnv(), fake_videos(), **arguments).learn(10))


# ---- the encoder's loss ----


class Darkness(th.nn.Module):
    """A feature loss of one's own."""

    def __init__(self, encoder, observation_shape, target=0.0, literal=frozenset()):
        super().__init__()
        self.encoder, self.target, self.literal = encoder, target, literal
        self.n_updates = 0
        assert observation_shape == (3, SIZE, SIZE)

    def forward(self, observations):
        assert observations.shape[1:] == (3, 3, SIZE, SIZE)
        assert observations.abs().max() <= 0.5
        return (self.encoder(observations[:, 0]) - self.target).square().mean()

    def update_target(self, tau):
        self.n_updates += 1


def test_a_feature_loss_of_ones_own():
    model = tiny_model(
        feature_loss_class=Darkness,
        feature_loss_kwargs={"target": 2.0},
        pretrain_encoder_steps=150,
        encoder_learning_rate=0.03,
        policy_kwargs=NO_STATISTICS,
    ).pretrain()
    features = model.policy.encode(model.videos.sample(20).frames)
    assert features.mean().item() == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize(("loss_class", "n_frames"), [(InfoNCE, 1), (PrototypeLoss, 2), (Darkness, 3)])
def test_the_encoder_stage_reads_what_its_loss_looks_at(monkeypatch, loss_class, n_frames):
    kwargs = {"target": 2.0} if loss_class is Darkness else {"projection_dim": 4, "hidden_dim": 8}
    model = tiny_model(feature_loss_class=loss_class, feature_loss_kwargs=kwargs, policy_kwargs=NO_STATISTICS)
    read, windows = [], model.videos.windows
    monkeypatch.setattr(model.videos, "windows", lambda *args: read.append(windows(*args).frames) or windows(*args))
    model._pretrain_encoder(progress_bar=False)
    assert [frames.shape[:2] for frames in read] == [(4, n_frames)] * 2


# ---- what is logged ----

PRETRAIN_KEYS = {
    f"pretrain/{name}"
    for name in "encoder_loss world_model_error error_to_copying error_to_shuffled code_use perplexity imitation_loss".split()
}
TRAIN_KEYS = {
    f"train/{name}" for name in "n_updates learning_rate action_loss action_accuracy dynamics_loss imitation_loss".split()
}


@pytest.fixture
def log_every_step(monkeypatch):
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.LOG_STEPS", 1)


def test_a_csv_logger_gets_all_keys(log_every_step, tmp_path):
    model = tiny_model()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(30, log_interval=1)
    model.logger.close()
    filled = {key for row in read_csv(tmp_path / "progress.csv") for key, value in row.items() if value}
    assert PRETRAIN_KEYS | TRAIN_KEYS | {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/total_timesteps"} <= filled


def test_pretraining_logs_over_its_own_steps(log_every_step):
    model, memory = tiny_model(pretrain_encoder_steps=2, pretrain_dynamics_steps=3, pretrain_imitation_steps=2), Memory()
    model.set_logger(Logger(None, [memory]))
    model.pretrain()
    assert [step for step, _ in memory.lines] == [1, 2, 3, 4, 5, 6, 7]
    keys = [set(values) for _, values in memory.lines]
    counted = {"pretrain/n_updates", "time/time_elapsed"}
    assert keys[0] == {"pretrain/encoder_loss"} | counted
    assert {"pretrain/world_model_error"} | counted <= keys[2]
    assert keys[-1] == {"pretrain/imitation_loss"} | counted
    assert memory.values("pretrain/n_updates") == [1, 2, 3, 4, 5, 6, 7]


def test_pretraining_logs_its_own_seconds(log_every_step, monkeypatch):
    model, memory = tiny_model(pretrain_encoder_steps=1, pretrain_dynamics_steps=0, pretrain_imitation_steps=0), Memory()
    model.set_logger(Logger(None, [memory]))
    clock = iter((5_000_000_000, 12_700_000_000))
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.time.time_ns", lambda: next(clock))
    model.pretrain()
    assert memory.values("time/time_elapsed") == [7]


def test_pretraining_logs_the_mean_of_its_last_losses(monkeypatch):
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.LOG_STEPS", 3)
    losses = iter(th.tensor(float(i), requires_grad=True) for i in range(7))
    model, memory = tiny_model(pretrain_encoder_steps=7), Memory()
    monkeypatch.setattr(InfoNCE, "forward", lambda self, observations: next(losses))
    model.set_logger(Logger(None, [memory]))
    model.pretrain()
    assert memory.values("pretrain/encoder_loss") == [1, 4]  # of 0, 1, 2 and 3, 4, 5; the 6 makes no line


def test_each_stage_of_pretraining_logs_some_lines_however_long_it_is(log_every_step, monkeypatch):
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.LOG_LINES", 2)
    model, memory = tiny_model(pretrain_encoder_steps=9, pretrain_dynamics_steps=5, pretrain_imitation_steps=3), Memory()
    model.set_logger(Logger(None, [memory]))
    model.pretrain()
    assert memory.values("pretrain/n_updates") == [5, 9 + 3, 9 + 5 + 2]


def test_tensorboard_gets_a_run_for_each_stage(log_every_step, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = tiny_model(tensorboard_log=str(tmp_path)).learn(30, log_interval=1, tb_log_name="mine")
    model.logger.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine_1", "mine_pretrain_1"]
    tags = {}
    for path in tmp_path.iterdir():
        events = EventAccumulator(str(path))
        events.Reload()
        tags[path.name] = set(events.Tags()["scalars"])
    assert tags["mine_pretrain_1"] == PRETRAIN_KEYS
    assert tags["mine_1"] >= TRAIN_KEYS - {"train/n_updates"}


def test_nothing_is_printed_unless_asked(capfd):
    tiny_model().learn(20, log_interval=1)
    assert capfd.readouterr() == ("", "")


def test_verbose_prints_the_table(capsys, log_every_step):
    tiny_model(verbose=1).learn(20, log_interval=1)
    printed = capsys.readouterr().out
    assert "encoder_loss" in printed
    assert "total_timesteps" in printed


def test_a_schedule_of_the_learning_rate_is_followed():
    model, memory = tiny_model(ActionPictureEnv(episode_length=5), learning_rate=lambda remaining: 1e-3 * remaining), Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(40, log_interval=1)
    assert memory.values("train/learning_rate") == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0])
    assert model.latent_policy_optimizer.param_groups[0]["lr"] == 0


def test_each_network_has_its_learning_rate_online():
    model = tiny_model(learning_rate=0.1, idm_learning_rate=0.2, action_decoder_learning_rate=0.3).learn(10)
    assert [group["lr"] for group in model.latent_policy_optimizer.param_groups] == [0.1]
    assert [group["lr"] for group in model.finetune_optimizer.param_groups] == [0.2, 0.3, 0, 0]  # w and f are frozen


def test_the_online_learning_rates_may_be_schedules():
    model = tiny_model(
        ActionPictureEnv(episode_length=5),
        tune_encoder=["online"],
        idm_learning_rate=LinearSchedule(0.4, 0.0, 1.0),
        action_decoder_learning_rate=lambda remaining: 0.2 * remaining,
    )
    rates = []
    finetune = model._finetune

    def noting_rates(*args):
        finetune(*args)
        rates.append([group["lr"] for group in model.finetune_optimizer.param_groups])

    model._finetune = noting_rates
    model.learn(40)
    assert np.array(rates) == pytest.approx(np.outer([0.75, 0.5, 0.25, 0], [0.4, 0.2, 0, 0.4]))


def test_a_rollout_beyond_the_total_takes_no_schedule_below_its_end():
    falling = {name: lambda remaining: 0.1 * remaining for name in ("learning_rate", "action_decoder_learning_rate")}
    model = tiny_model(ActionPictureEnv(episode_length=5), **falling).learn(35)
    assert model.num_timesteps == 40
    assert model.latent_policy_optimizer.param_groups[0]["lr"] == 0
    assert model.finetune_optimizer.param_groups[1]["lr"] == 0


NO_NUMBERS = ["1e-3", None, float("nan"), -1.0]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("name", ["learning_rate", "encoder_learning_rate", "commitment_coef", "exploration_noise", "tau"])
def test_what_is_no_number_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {re.escape(repr(value))}, expected "):
        tiny_model(**{name: value})


@pytest.mark.parametrize("name", ["gradient_steps", "batch_size", "imitation_pad", "learning_starts", "random_action_steps"])
def test_whole_numbers_are_no_option(name):
    with pytest.raises(ValueError, match=f"{name} is None, expected a whole number from"):
        tiny_model(**{name: None})


def test_offline_rates_take_no_schedule():
    with pytest.raises(ValueError, match=r"imitation_learning_rate is .*, expected a number from 0 on\."):
        tiny_model(imitation_learning_rate=lambda remaining: 1e-3 * remaining)


@pytest.mark.parametrize("train_freq", ["x", (5,), (1, "year"), 0, 2.5], ids=str)
def test_a_train_freq_that_sb3_does_not_know_is_refused(train_freq):
    with pytest.raises(ValueError, match=f"train_freq is {re.escape(repr(train_freq))}, expected a number of steps"):
        tiny_model(train_freq=train_freq)


def test_episodes_of_several_environments_are_no_train_freq():
    with pytest.raises(ValueError, match="there are 2 environments, whose episodes do not end together"):
        tiny_model(DummyVecEnv([ActionPictureEnv] * 2), train_freq=(1, "episode"))


@pytest.mark.parametrize(
    "mistake",
    [{"total_timesteps": "500"}, {"total_timesteps": 20, "log_interval": 0}, {"total_timesteps": 20, "callback": [print]}],
)
def test_mistakes_of_learn_do_not_cost_a_pretraining(mistake):
    model = tiny_model()
    with pytest.raises((ValueError, TypeError, AttributeError)):  # the last are SB3's
        model.learn(**mistake)
    assert not model.pretrained


def test_a_class_of_environments_is_told_from_a_policy():
    with pytest.raises(ValueError, match=r"The environment is the class ActionPictureEnv, expected .*: ActionPictureEnv\(\)"):
        tiny_model(ActionPictureEnv)


def test_videos_in_the_place_of_the_environment_are_told():
    with pytest.raises(ValueError, match=r"The first argument is a list, expected the environment: `BCVLR\(env, videos\)`"):
        BCVLR(fake_videos(), ActionPictureEnv())


@pytest.mark.parametrize("policy", [42, ActorCriticCnnPolicy])
def test_a_policy_of_another_kind_is_refused(policy):
    with pytest.raises(ValueError, match=r"expected one of \['CnnPolicy'\] or a class"):
        tiny_model(policy=policy)


@pytest.mark.parametrize("policy_kwargs", ["x", {"n_history": 3}])
def test_policy_kwargs_hold_the_policys_own_arguments(policy_kwargs):
    with pytest.raises(ValueError, match=r"expected a dict of the policy's arguments without .*'n_history'"):
        BCVLR(ActionPictureEnv(), policy_kwargs=policy_kwargs)


def test_set_env_refuses_what_the_constructor_refuses():
    env = VecNormalize(DummyVecEnv([ActionPictureEnv]), norm_obs=False)
    with pytest.raises(ValueError, match="VecNormalize lies around an environment whose pictures have their channels last"):
        tiny_model().set_env(env)


def test_actions_that_cannot_change_are_refused():
    env = ActionPictureEnv()
    env.action_space = spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float32)
    with pytest.raises(ValueError, match="expected low < high"):
        BCVLR(env, fake_videos())


def test_gymnasiums_vectors_are_refused_with_the_one_that_serves():
    with pytest.raises(ValueError, match=r"SyncVectorEnv of Gymnasium, expected .*make_vec_env\(id, n_envs=...\)"):
        BCVLR(gym.vector.SyncVectorEnv([ActionPictureEnv] * 2), fake_videos())
    with pytest.raises(ValueError, match="SyncVectorEnv of Gymnasium"):
        tiny_model().set_env(gym.vector.SyncVectorEnv([ActionPictureEnv] * 2))


def test_actions_without_an_axis_are_refused():
    env = ActionPictureEnv()
    env.action_space = spaces.Box(-1, 1, (), np.float32)
    with pytest.raises(ValueError, match=r"expected at least one axis: make the shape \(1,\)"):
        BCVLR(env, fake_videos())


def test_videos_that_are_given_later_are_made_a_dataset_too():
    model = tiny_model()
    model.videos = fake_videos()
    assert model.learn(20).videos.n_episodes == len(fake_videos())


def test_videos_that_are_given_later_stay_the_users_own():
    videos, twin = (VideoDataset(fake_videos(), n_history=2, seed=5) for _ in range(2))
    drawn = []
    for _ in range(2):
        model = tiny_model(seed=3)
        model.videos = videos
        drawn.append(snapshot(model.learn(20)))
        assert model.videos is not videos
    assert equal(*drawn)
    assert np.array_equal(videos.sample_indices(20), twin.sample_indices(20))


def test_videos_that_are_given_later_have_to_fit():
    model = tiny_model()
    model.videos = VideoDataset(fake_videos(), image_size=SIZE - 1)
    with pytest.raises(ValueError, match="The videos have shape"):
        model.learn(20)


@pytest.mark.parametrize("ends", [(-1.0, 0.0), (1.0, -1.0)])
def test_a_schedule_below_0_is_refused(ends):
    with pytest.raises(ValueError, match=r"idm_learning_rate is -1\.0, expected a number from 0 on or a schedule"):
        tiny_model(idm_learning_rate=LinearSchedule(*ends, 1.0))


def test_n_updates_counts_gradient_steps():
    assert tiny_model().learn(30)._n_updates == 3 * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("imitation_batch_size", 0),
        ("random_action_steps", 0),
        ("target_update_interval", 0),
        ("n_history", 0),
        ("n_epochs", 0),
        ("learning_starts", -1),
        ("pretrain_encoder_steps", -1),
        ("imitation_pad", -1),
        ("exploration_noise", -0.5),
        ("world_model_coef", -1),
        ("policy_tau", 0),
        ("tau", -1),
        ("max_grad_norm", -1),
        ("gradient_steps", -2),
        ("train_freq", 0),
        ("train_freq", (0, "step")),
        ("encoder_learning_rate", -1),
        ("stats_window_size", 0),
    ],
)
def test_numbers_that_are_too_small_are_refused(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value}, expected")):
        tiny_model(**{name: value})


@pytest.mark.parametrize("name", ["batch_size", "gradient_steps", "pretrain_encoder_steps", "n_history"])
def test_numbers_that_are_not_whole_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 8.0, expected a whole number"):
        tiny_model(**{name: 8.0})


def test_arguments_that_the_feature_loss_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"feature_loss_kwargs is .*expected arguments of InfoNCE.*projection"):
        tiny_model(feature_loss_kwargs={"projection": 3})


def test_the_name_of_a_feature_loss_is_refused():
    with pytest.raises(ValueError, match="feature_loss_class is 'InfoNCE', expected a class"):
        tiny_model(feature_loss_class="InfoNCE")


@pytest.mark.parametrize("name", ["literal", "tune_encoder"])
def test_a_string_in_place_of_a_list_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: \['online'\] is not known; choose from \[.*\], in a list"):
        tiny_model(**{name: "online"})


def test_an_encoder_that_is_to_learn_online_needs_a_learning_rate():
    with pytest.raises(ValueError, match="idm_learning_rate, which is 0"):
        tiny_model(tune_encoder=["online"], idm_learning_rate=0)


def test_a_warm_up_that_leaves_the_quantizer_no_step_is_refused():
    with pytest.raises(ValueError, match="expected fewer than pretrain_dynamics_steps, 5"):
        tiny_model(pretrain_dynamics_steps=5, quantizer_warmup_steps=5)


@pytest.mark.parametrize(
    "change", [{"pretrain_dynamics_steps": 0}, {"policy_kwargs": {"quantizer_kwargs": {"enabled": False}}}]
)
def test_a_warm_up_of_any_length_is_taken_where_no_quantizer_learns(change):
    assert tiny_model(**{"quantizer_warmup_steps": 50, **change}).quantizer_warmup_steps == 50


@pytest.mark.parametrize("first", ["CnnPolicy", "MlpPolicy", BCVLRPolicy, ActorCriticCnnPolicy])
@pytest.mark.parametrize("named", [[], ["videos"], ["env", "videos"]])
def test_a_policy_in_the_place_of_the_environment_is_refused(first, named):
    given = {"env": ActionPictureEnv(), "videos": fake_videos()}
    in_place = [value for name, value in given.items() if name not in named]
    with pytest.raises(ValueError, match=r"The first argument .*expected the environment: `BCVLR\(env, videos, policy\)`"):
        BCVLR(first, *in_place, **{name: given[name] for name in named})


def test_a_policy_in_the_place_of_the_videos_is_refused():
    with pytest.raises(ValueError, match=r"The second argument is the policy 'CnnPolicy', expected the videos"):
        BCVLR(ActionPictureEnv(), "CnnPolicy", videos=fake_videos())


def test_a_dict_of_observations_is_refused():
    env = ActionPictureEnv()
    env.observation_space = spaces.Dict({"picture": env.observation_space})
    with pytest.raises(ValueError, match="expected images"):
        BCVLR(env, fake_videos())


@pytest.mark.parametrize(
    ("space", "advice"),
    [
        (spaces.Box(0, 255, (3, SIZE, SIZE, 3), np.uint8), "stack_frames"),
        (spaces.Box(0, 255, (SIZE, SIZE), np.uint8), r"stack_frames\(env, 1\)"),
        (spaces.Box(-10, 10, (SIZE, SIZE, 3), np.float32), "VecNormalize"),
        (spaces.Dict({"pixels": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)}), "render_only=True"),
        (spaces.Box(-1, 1, (4,), np.float32), "AddRenderObservation makes them"),
    ],
)
def test_the_advice_fits_what_is_observed(space, advice):
    env = ActionPictureEnv()
    env.observation_space = space
    with pytest.raises(ValueError, match=f"expected images.*{advice}"):
        BCVLR(env, fake_videos())


@pytest.mark.parametrize("channels_first", [False, True])
def test_normalized_rewards_are_refused_where_they_mix_up_pictures(channels_first):
    env = VecNormalize(DummyVecEnv([lambda: ActionPictureEnv(channels_first=channels_first)]), norm_obs=False)
    if channels_first:
        assert all_finite(tiny_model(env).learn(20))
    else:
        with pytest.raises(
            ValueError, match="VecNormalize lies around an environment whose pictures have their channels last"
        ):
            tiny_model(env)


def test_actions_of_whole_numbers_on_axes_are_refused():
    env = ActionPictureEnv()
    env.action_space = spaces.Box(0, 255, (2,), np.uint8)
    with pytest.raises(ValueError, match="expected floats"):
        BCVLR(env, fake_videos())


def test_actions_without_bounds_are_refused():
    env = ActionPictureEnv()
    env.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ValueError, match="expected finite bounds"):
        BCVLR(env, fake_videos())


def test_the_seed_reaches_a_dataset_that_has_none():
    runs = [snapshot(tiny_model(videos=VideoDataset(fake_videos(), n_history=2), seed=3).pretrain()) for _ in range(2)]
    assert equal(*runs)


def test_a_model_draws_from_videos_that_others_draw_from_as_if_alone():
    videos = VideoDataset(fake_videos(), seed=5)
    alone = tiny_model(videos=videos, seed=3).videos.sample_indices(9)
    first, second = tiny_model(videos=videos, seed=3), tiny_model(videos=videos, seed=4)
    second.videos.sample(4)
    videos.sample(4)
    assert np.array_equal(first.videos.sample_indices(9), alone)


def test_a_model_leaves_the_generator_of_the_videos_as_it_is():
    videos, others = (VideoDataset(fake_videos(), seed=5) for _ in range(2))
    tiny_model(videos=videos, seed=3).pretrain()
    assert np.array_equal(videos.sample_indices(9), others.sample_indices(9))


def test_set_random_seed_reaches_the_videos_and_the_replay(tmp_path):
    tiny_model(seed=None).save(tmp_path / "unseeded")
    runs = []
    for _ in range(2):
        model = BCVLR.load(tmp_path / "unseeded", env=ActionPictureEnv(), videos=fake_videos(), device="cpu")
        model.set_random_seed(7)
        runs.append(snapshot(model.learn(20)))
    assert equal(*runs)


def test_another_grey_than_that_of_the_videos_is_warned_of():
    env = GrayscaleObservation(ActionPictureEnv(), keep_dim=True)
    with pytest.warns(UserWarning, match=r"take sb3_bcvlr\.envs\.grayscale\(env\)"):
        tiny_model(env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_model(env, VideoDataset(fake_videos(), grayscale=True))  # whoever makes one knows its grey
        tiny_model(grayscale(ActionPictureEnv()))


def test_a_stack_of_three_grey_frames_is_told():
    model = tiny_model(stack_frames(grayscale(ActionPictureEnv()), 3), n_stack=3)
    assert (model.videos.n_stack, model.n_history, model.videos.observation_shape) == (3, 1, (3, 16, 16))
    assert all_finite(model.learn(20))


def test_a_dataset_of_color_is_refused_where_grey_frames_are_stacked():
    env = stack_frames(grayscale(ActionPictureEnv()), 3)
    with pytest.raises(ValueError, match="cut with n_stack=1, the model expects n_stack=3"):
        tiny_model(env, VideoDataset(fake_videos(), n_history=1), n_stack=3)


def test_an_n_stack_that_the_channels_deny_is_refused():
    with pytest.raises(ValueError, match="n_stack is 2, but observations have 3 channels, expected 6, or 2"):
        tiny_model(n_stack=2)


def test_frames_that_are_no_stack_are_refused_before_a_pretraining(monkeypatch):
    monkeypatch.setattr(BCVLR, "pretrain", None)
    env = FrameStackObservation(ActionPictureEnv(channels_first=True), 2, padding_type="zero")
    with pytest.raises(ValueError, match="were taken for stacks of 2 frames"):
        tiny_model(ReshapeObservation(env, (6, 16, 16))).learn(20)


def test_actions_that_do_not_start_at_zero_are_refused():
    env = ActionPictureEnv()
    env.action_space = spaces.Discrete(3, start=1)
    with pytest.raises(ValueError, match="from 0 on"):
        tiny_model(env)


def test_a_dataset_that_crosses_episodes_unasked_is_refused():
    videos = VideoDataset(fake_videos(), cross_episodes=True)
    with pytest.raises(ValueError, match="cross_episodes=True"):
        tiny_model(videos=videos)


@pytest.mark.parametrize(("warmup_steps", "quantized_steps"), [(0, 5), (3, 2), (4, 1)])
def test_latent_actions_stay_continuous_while_the_quantizer_warms_up(warmup_steps, quantized_steps):
    model, updates = tiny_model(pretrain_dynamics_steps=5, quantizer_warmup_steps=warmup_steps), []
    follow = model.policy.idm.quantizer._follow
    model.policy.idm.quantizer._follow = lambda *args: updates.append(follow(*args))
    model.pretrain()
    assert len(updates) == quantized_steps
    assert not model.policy.idm.quantizer.bypass


def test_pretraining_trains_though_the_model_has_predicted_before():
    model = tiny_model()
    model.predict(picture(1, 3, 0))
    before = snapshot(model)
    assert not th.equal(snapshot(model.pretrain())["idm.quantizer.codes"], before["idm.quantizer.codes"])


def test_pi_learns_in_training_mode_though_it_has_acted():
    networks = {"latent_policy_class": NormalizedLatentPolicy, "latent_policy_kwargs": {}}
    model = pretrained(learning_starts=0, policy_kwargs=networks)
    before = model.policy.latent_policy[1].num_batches_tracked.item()
    model.learn(10)
    assert model.policy.latent_policy[1].num_batches_tracked == before + model.imitation_steps


def test_the_dynamics_start_with_latent_actions_of_unit_variance():
    policy = pretrained(pretrain_dynamics_steps=0).policy
    assert policy.latent_std.item() == pytest.approx(1, abs=0.2)
    assert policy.latent_mean.abs().max() < 0.2


def test_offline_the_weights_of_p_w_and_pi_decay_and_no_others(monkeypatch):
    classes, make = [], BCVLR._optimizer
    monkeypatch.setattr(
        BCVLR, "_optimizer", lambda self, of_class, *args: classes.append(of_class) or make(self, of_class, *args)
    )
    tiny_model().pretrain()
    assert classes == [th.optim.Adam] * 3 + [th.optim.AdamW] * 2  # p and d online, pi online; f, p and w, pi offline


def test_codes_that_wait_for_their_turn_are_not_logged(monkeypatch):
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.LOG_STEPS", 1)
    model, memory = tiny_model(pretrain_dynamics_steps=3, quantizer_warmup_steps=2), Memory()
    model.set_logger(Logger(None, [memory]))
    model.pretrain()
    assert len(memory.values("pretrain/world_model_error")) == 3
    assert len(memory.values("pretrain/code_use")) == len(memory.values("pretrain/perplexity")) == 1


def test_pi_learns_at_the_rate_of_this_round():
    model = tiny_model(ActionPictureEnv(episode_length=5), learning_rate=lambda remaining: remaining)
    model.pretrained = True
    rates, imitate = [], model._imitate_videos
    model._imitate_videos = lambda n, optimizer: rates.append(optimizer.param_groups[0]["lr"]) or imitate(n, optimizer)
    model.learn(40)
    assert rates == [0.75, 0.5, 0.25, 0]


def test_without_its_coefficient_the_world_model_is_left_out_and_the_codes_rest():
    model = pretrained(world_model_coef=0.0)
    before = snapshot(model)
    model.policy.world_model.forward = None
    model.learn(10)
    assert th.equal(snapshot(model)["idm.quantizer.codes"], before["idm.quantizer.codes"])


def test_the_decoder_learns_from_standardized_latent_actions():
    model, read, met = pretrained().learn(10), [], []
    policy = model.policy
    policy.latent_mean.fill_(5.0)
    policy.idm.register_forward_hook(lambda module, inputs, output: read.append(output))
    policy.action_decoder.register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))
    model._finetune(model.replay_buffer, 1, 4)
    assert th.equal(met[0], (read[0] - 5) / policy.latent_std)


def test_the_average_follows_within_a_round_too():
    model = pretrained(policy_tau=0.25, learning_rate=0.0)  # the newest stays where it is
    newest, average = model.policy.latent_policy.head.bias, model.policy.latent_policy_average.head.bias
    with th.no_grad():
        average.copy_(newest + 1)
    model._imitate_videos(3, th.optim.SGD(model.policy.latent_policy.parameters(), lr=0.0))
    th.testing.assert_close(average, newest.detach() + 0.75**3)


def test_each_update_is_logged_without_a_log_interval():
    model, memory = pretrained(), Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(30)
    assert len(memory.values("train/action_loss")) == 3


def test_by_default_the_rates_of_p_and_d_fall():
    assert (FALLING_RATE(1.0), FALLING_RATE(0.0)) == pytest.approx((1e-3, 2e-5))


@pytest.mark.parametrize(("name", "value"), [("policy_tau", 0.01), ("tune_encoder", ("online",))])
def test_defaults_that_the_figures_were_made_with(name, value):
    assert inspect.signature(BCVLR).parameters[name].default == value


def test_an_interrupted_learn_leaves_learning_starts_as_it_was():
    model = tiny_model().learn(20)
    with pytest.raises(ZeroDivisionError):
        model.learn(20, callback=lambda *_: 1 / 0)
    assert model.learning_starts == 9


def test_pretraining_measures_how_much_features_change():
    policy = pretrained(pretrain_dynamics_steps=0, pretrain_imitation_steps=0).policy
    assert (policy.change_std > 0.01).all() and (policy.change_std != 1).all()


def test_without_the_world_model_p_still_learns_what_actions_do():
    model = pretrained(world_model_coef=0.0)
    before = snapshot(model)
    assert "idm" in moved(before, snapshot(model.learn(10)))


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 1), (-1, np.inf)])
def test_actions_with_one_bound_are_refused(low, high):
    env = ActionPictureEnv()
    env.action_space = spaces.Box(low, high, (2,), np.float32)
    with pytest.raises(ValueError, match="expected finite bounds"):
        BCVLR(env, fake_videos())


def test_the_seed_reaches_the_replay_buffer():
    first, same, other = (tiny_model(seed=seed).replay_buffer._rng.integers(2**31) for seed in (3, 3, 4))
    assert first == same != other


# ---- acting in rollouts ----


def test_rollouts_act_by_what_may_be_a_graph_and_nobody_else_does(monkeypatch):
    model = tiny_model(ActionPictureEnv(), learning_starts=0)
    n_calls, graphed = [], model._graphed

    def watched(name, step, *kept):
        act = graphed(name, step, *kept)
        return (lambda observations: n_calls.append(len(observations)) or act(observations)) if name == "decode" else act

    monkeypatch.setattr(model, "_graphed", watched)
    model.learn(7, callback=lambda *_: len(model.predict(model.env.reset())) > 0)  # as an evaluation between two steps
    assert n_calls == [1] * model.num_timesteps


def test_after_a_rollout_that_failed_predict_decodes_by_itself(monkeypatch):
    model = tiny_model(ActionPictureEnv(), learning_starts=0)
    monkeypatch.setattr(model, "_graphed", lambda *_: lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.learn(2)
    model.predict(model.env.reset())


# ---- recordings of updates, which a GPU replays ----

CONSTANT_RATES = {"idm_learning_rate": 1e-3, "action_decoder_learning_rate": 1e-3}


def steps_of_the_next_round(model: BCVLR) -> dict[str, object]:
    model._update(model.replay_buffer, 1, model.batch_size, 1)
    return {name: graphed for name, (_, graphed) in model._graphed_steps.items()}


def test_a_round_replays_what_the_one_before_recorded():
    model = tiny_model(**CONSTANT_RATES).learn(20)
    assert steps_of_the_next_round(model) == steps_of_the_next_round(model)


@pytest.mark.parametrize(
    ("name", "value", "changed"),
    [
        ("idm_learning_rate", 5e-4, {"finetune"}),
        ("action_decoder_learning_rate", 5e-4, {"finetune"}),
        ("world_model_learning_rate", 5e-4, {"finetune"}),
        ("world_model_coef", 0.25, {"finetune"}),
        ("dynamics_pad", 1, {"finetune"}),
        ("batch_size", 5, {"finetune"}),
        ("lr_schedule", lambda progress: 1e-5, {"imitate"}),
        ("policy_tau", 0.5, {"imitate"}),
        ("imitation_pad", 1, {"imitate"}),
        ("action_imitation_coef", 0.5, {"imitate"}),
        ("imitation_batch_size", 5, {"imitate"}),
        ("commitment_coef", 0.5, {"finetune", "imitate"}),
        ("mixed_precision", True, {"finetune", "imitate"}),
    ],
)
def test_a_round_records_anew_what_has_changed(name, value, changed):
    model = tiny_model(**CONSTANT_RATES, mixed_precision=False).learn(20)
    before = steps_of_the_next_round(model)
    setattr(model, name, value)
    after = steps_of_the_next_round(model)
    assert {stage for stage in after if after[stage] is not before[stage]} == changed


def test_new_parameters_are_recorded_anew():
    model = tiny_model(**CONSTANT_RATES).learn(20)
    before = steps_of_the_next_round(model)
    model.set_parameters(model.get_parameters())
    after = steps_of_the_next_round(model)
    assert all(after[stage] is not before[stage] for stage in after)


@needs_gpu
@pytest.mark.filterwarnings("error:No CUDA graph")
def test_neighbors_are_asked_by_a_graph_as_without():
    model = tiny_model(**{**CONSTANT_RATES, "learning_starts": 0}, n_neighbors=16, device="cuda").learn(60)
    pictures = th.randint(256, (1, 3, SIZE, SIZE), dtype=th.uint8, device="cuda")
    model.policy.set_training_mode(False)
    for _ in range(2):
        with th.no_grad():
            replayed = model._graphed_steps["decode"][1](pictures)[0]
            th.testing.assert_close(replayed, model.policy.decode(pictures))
        model.policy.keep_video_latents(th.randn_like(model.policy.video_latents))


@needs_gpu
def test_rounds_that_are_replayed_learn_what_others_learn(monkeypatch):
    rng = np.random.default_rng(0)
    episodes = [(rng.integers(256, size=(20, SIZE, SIZE, 3), dtype=np.uint8), rng.integers(3, size=19)) for _ in range(3)]
    without_chance = dict(pretrain_encoder_steps=0, pretrain_dynamics_steps=0, pretrain_imitation_steps=0, imitation_pad=0)

    def learned(n_warmup: int) -> dict[str, th.Tensor]:
        monkeypatch.setattr("sb3_bcvlr.common.devices.N_WARMUP", n_warmup)
        model = tiny_model(**CONSTANT_RATES, **without_chance, device="cuda")
        return snapshot(model.align(episodes, gradient_steps=24, imitation_steps=24, n_rounds=4))

    th.testing.assert_close(learned(3), learned(10**9), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("coefficient", [0.0, 3.0])
def test_the_commitment_weighs_as_it_is_told(coefficient):
    model = tiny_model(commitment_coef=coefficient).pretrain()
    model.policy.set_training_mode(False)
    frames = model.videos.sample(5).frames
    _, expected = model.policy.latent_dynamics(frames, coefficient)
    _, loss = model._latent_dynamics(frames)
    assert loss.item() == pytest.approx(expected.item())


def test_a_quantizer_that_is_left_out_follows_nothing_offline():
    quantizer_kwargs, followed = {**TINY_NETWORKS["quantizer_kwargs"], "enabled": False}, []
    model = tiny_model(policy_kwargs={"quantizer_kwargs": quantizer_kwargs})
    model.policy.idm.quantizer._follow = lambda *args: followed.append(args)
    model.pretrain()
    assert not followed


def test_a_second_pretraining_trains_the_world_model_too():
    model = tiny_model().learn(20)
    before = [parameter.clone() for parameter in model.policy.world_model.parameters()]
    after = model.pretrain().policy.world_model.parameters()
    assert not any(th.equal(*pair) for pair in zip(before, after, strict=True))


def test_pi_online_has_an_optimizer_of_its_own_where_rates_are_equal():
    assert tiny_model(learning_rate=1e-3, imitation_learning_rate=1e-3).learn(10).latent_policy_optimizer.state


def test_the_loss_and_the_score_of_actions_are_logged():
    model, memory = pretrained(), Memory()
    model.set_logger(Logger(None, [memory]))
    model.policy.action_loss = lambda z, _: (model.policy.action_decoder(z).sum() * 0 + 7, th.tensor(0.25))
    model.learn(10)
    assert set(memory.values("train/action_loss")) == {7} and set(memory.values("train/action_accuracy")) == {0.25}


def test_the_loss_of_the_dynamics_is_logged(monkeypatch):
    model, memory = pretrained(), Memory()
    model.set_logger(Logger(None, [memory]))
    latent_dynamics = model.policy.latent_dynamics

    def of_seven(frames, coefficient):
        latent_actions, loss = latent_dynamics(frames, coefficient)
        return latent_actions, loss * 0 + 7

    monkeypatch.setattr(model.policy, "latent_dynamics", of_seven)
    model.learn(10)
    assert set(memory.values("train/dynamics_loss")) == {7}


def test_diagnostics_are_logged_as_they_are(log_every_step, monkeypatch):
    model, memory = tiny_model(), Memory()
    model.set_logger(Logger(None, [memory]))
    monkeypatch.setattr(model.policy, "dynamics_diagnostics", lambda frames: {"world_model_error": 0.5})
    model.pretrain()
    assert set(memory.values("pretrain/world_model_error")) == {0.5}


def test_the_time_of_the_online_stage_begins_after_the_pretraining(monkeypatch):
    model, ends = tiny_model(), []
    pretrain = model.pretrain
    monkeypatch.setattr(model, "pretrain", lambda **kwargs: (pretrain(**kwargs), ends.append(time.time_ns())))
    assert model.learn(10).start_time >= ends[0]


def test_without_a_seed_the_videos_keep_theirs():
    first, second = (tiny_model(videos=VideoDataset(fake_videos(), seed=5), seed=None).videos for _ in range(2))
    assert (first.sample_indices(9) == second.sample_indices(9)).all()
