"""Continuous actions: the same class, the same two stages; and that it learns."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from toys import DotEnv, Memory, dot_videos, equal, moved, snapshot, tiny_model

from sb3_bcvlr import BCVLR
from sb3_bcvlr.common.contrastive import InfoNCE, PrototypeLoss
from sb3_bcvlr.common.networks import DrQLatentPolicy
from sb3_bcvlr.envs import stack_frames

VIDEOS, ACTIONS, _ = dot_videos(4)
PICTURES = np.concatenate(VIDEOS)


def dot_model(env=None, **overrides) -> BCVLR:
    return tiny_model(DotEnv() if env is None else env, VIDEOS, **overrides)


def test_actions_respect_the_bounds_of_the_environment():
    model = dot_model()
    with th.no_grad():
        model.policy.action_decoder[-1].bias.copy_(th.tensor([5.0, -5.0]))
    actions, _ = model.predict(PICTURES)
    assert actions.shape == (len(PICTURES), 2) and actions.dtype == np.float32
    assert (actions == [2, -2]).all()


def test_rounding_takes_no_action_beyond_bounds_that_are_not_symmetric():
    env = DotEnv()
    env.action_space = spaces.Box(-3.0, 0.2, (2,), np.float32)
    model = tiny_model(env, VIDEOS)
    with th.no_grad():
        model.policy.action_decoder[-1].bias.fill_(5.0)
    actions, _ = model.predict(PICTURES)
    assert all(map(env.action_space.contains, actions))


def test_predict_adds_no_noise():
    model = dot_model()
    assert np.array_equal(model.predict(PICTURES)[0], model.predict(PICTURES, deterministic=True)[0])


@pytest.mark.parametrize("std", [0.0, 0.1])
def test_rollouts_have_the_exploration_noise(std):
    model = dot_model(exploration_noise=std, learning_starts=0, gradient_steps=0).learn(9)
    buffer = model.replay_buffer
    frames, taken = buffer.frames[:9, 0], buffer.actions[:9, 0]
    noise = taken - model.predict(frames)[0] / 2
    assert noise.std() == pytest.approx(std, rel=0.6, abs=1e-6)


def test_the_exploration_noise_may_be_changed_between_two_calls_of_learn():
    model = dot_model(exploration_noise=0.5, learning_starts=0).learn(9)
    model.exploration_noise, model.gradient_steps, model.imitation_steps = 0.0, 0, 0
    buffer = model.replay_buffer
    new = slice(buffer.pos, None)
    model.learn(9)
    frames, actions = buffer.frames[new, 0][:9], buffer.actions[new, 0][:9]
    assert np.allclose(actions, model.predict(frames)[0] / 2, atol=1e-5)


@pytest.mark.parametrize(("random_action_steps", "n_actions"), [(1, 12), (4, 3), (5, 3)])
def test_random_actions_last_as_long_as_asked(random_action_steps, n_actions):
    model = dot_model(learning_starts=12, random_action_steps=random_action_steps).learn(12)
    actions = model.replay_buffer.actions[:12, 0]
    changes = np.flatnonzero((actions[1:] != actions[:-1]).any(1)) + 1
    assert changes.tolist() == list(range(random_action_steps, 12, random_action_steps))
    assert len(np.unique(actions, axis=0)) == n_actions


def test_random_actions_have_no_noise():
    actions = dot_model(learning_starts=300, exploration_noise=0.5).learn(300).replay_buffer.actions[:300, 0]
    assert (np.abs(actions) == 1).mean() < 0.01  # noise of 0.5 on uniform actions clips a fifth of them
    assert actions.min() < -0.9 and actions.max() > 0.9


def test_actions_of_several_axes_learn():
    env = DotEnv()
    env.action_space = spaces.Box(-2.0, 2.0, (1, 2), np.float32)
    env = TransformAction(env, lambda action: action.reshape(2), env.action_space)
    model = dot_model(env).learn(30)
    assert model._n_updates and model.predict(env.reset()[0])[0].shape == (1, 2)


def test_random_actions_that_last_differ_between_environments():
    model = dot_model(make_vec_env(DotEnv, 2), learning_starts=12, random_action_steps=4).learn(12)
    actions = model.replay_buffer.actions[:6]
    assert not (actions[:, 0] == actions[:, 1]).any()


def test_the_actions_of_the_policy_do_not_last():
    model = dot_model(learning_starts=0, random_action_steps=100, gradient_steps=0).learn(9)
    assert len(np.unique(model.replay_buffer.actions[:9, 0], axis=0)) == 9


def test_a_loaded_model_goes_on_with_random_actions(tmp_path):
    dot_model(learning_starts=20, random_action_steps=4).learn(6).save(tmp_path / "m")
    model = BCVLR.load(tmp_path / "m", env=DotEnv(), videos=VIDEOS)
    assert model.learn(6, reset_num_timesteps=False).num_timesteps == 20  # from the middle of one


def test_the_replay_holds_actions_scaled_to_one():
    model = dot_model(learning_starts=30).learn(30)
    assert 0.8 < np.abs(model.replay_buffer.actions[:30]).max() <= 1


def test_the_action_loss_is_the_mean_squared_error_and_the_score_r2():
    model, actions = dot_model(), th.tensor([[0.5, -0.5], [-0.5, 0.5], [1.0, 0.0]])
    z = th.randn(3, model.policy.idm.quantizer.latent_dim)
    predicted = model.policy.action_decoder(z)
    loss, r2 = model.policy.action_loss(z, actions)
    assert loss.item() == pytest.approx(((predicted - actions) ** 2).mean().item())
    residual, total = ((predicted - actions) ** 2).sum(), ((actions - actions.mean(0)) ** 2).sum()
    assert r2.item() == pytest.approx((1 - residual / total).item(), abs=1e-4)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_several_environments_learn(n_envs):
    env = make_vec_env(DotEnv, n_envs)
    before = snapshot(model := dot_model(env).pretrain())
    model.learn(30)
    assert moved(before, snapshot(model)) == {"idm", "action_decoder", "latent_policy"}


def test_a_loaded_model_predicts_the_same_and_goes_on(tmp_path):
    model = dot_model(policy_kwargs=dict(latent_policy_class=DrQLatentPolicy, latent_policy_kwargs=dict(hidden_dim=8))).learn(
        20
    )
    model.save(tmp_path / "m")
    assert np.array_equal(BCVLR.load(tmp_path / "m").predict(PICTURES)[0], model.predict(PICTURES)[0])
    loaded = BCVLR.load(tmp_path / "m", env=DotEnv(), videos=VIDEOS, device="cpu")
    before = snapshot(loaded)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 40
    assert moved(before, snapshot(loaded)) == {"idm", "action_decoder", "latent_policy"}


def test_stacked_frames_learn_with_a_third_of_the_memory():
    model = dot_model(stack_frames(DotEnv(), 3)).learn(30)
    assert model.videos.n_stack == model.replay_buffer.n_stack == 3
    assert model.replay_buffer.sample(5).frames.shape == (5, 2, 9, 32, 32)
    assert model.replay_buffer.frames.shape[2:] == (3, 32, 32)


@pytest.mark.parametrize("feature_loss_class", [InfoNCE, PrototypeLoss])
@pytest.mark.parametrize("n_stack", [1, 2])
def test_either_feature_loss_serves_continuous_actions(feature_loss_class, n_stack):
    env = stack_frames(DotEnv(), n_stack) if n_stack > 1 else DotEnv()
    before = snapshot(model := dot_model(env, feature_loss_class=feature_loss_class))
    model.pretrain()
    assert "encoder" in moved(before, snapshot(model))


def test_the_prototype_loss_serves_discrete_actions():
    before = snapshot(model := tiny_model(feature_loss_class=PrototypeLoss))
    model.pretrain()
    assert "encoder" in moved(before, snapshot(model))


# ---- the switches of the paper's studies ----


def test_idm_learning_rate_0_leaves_the_idm_and_its_codes_as_pretrained():
    before = snapshot(model := dot_model(idm_learning_rate=0.0).pretrain())
    model.learn(20)
    assert moved(before, snapshot(model)) == {"action_decoder", "latent_policy"}


def test_world_model_learning_rate_lets_the_world_model_learn_online():
    before = snapshot(model := dot_model(world_model_learning_rate=1e-3).pretrain())
    model.learn(20)
    assert "world_model" in moved(before, snapshot(model))


@pytest.mark.parametrize(("where", "in_pretraining", "online"), [("dynamics", True, False), ("online", False, True)])
def test_tune_encoder_lets_the_encoder_go_on_learning(where, in_pretraining, online):
    model = dot_model(tune_encoder=[where], pretrain_encoder_steps=0, policy_kwargs=dict(standardize=False))
    before = snapshot(model)
    after = snapshot(model.pretrain())
    assert ("encoder" in moved(before, after)) is in_pretraining
    model.learn(20)
    assert ("encoder" in moved(after, snapshot(model))) is online


def test_an_unknown_place_to_tune_the_encoder_is_refused():
    with pytest.raises(ValueError, match=r"\['idm'\] is not known; choose from"):
        dot_model(tune_encoder=["idm"])


def test_without_the_quantizer_the_world_model_reads_z_itself():
    kwargs = dict(code_dim=2, n_latents=1, enabled=False)
    model = dot_model(policy_kwargs=dict(quantizer_kwargs=kwargs)).learn(20)
    z = th.randn(5, model.policy.idm.quantizer.latent_dim)
    assert th.equal(model.policy.idm.quantizer(z)[0], z)


@pytest.mark.parametrize(("n_epochs", "n_updates"), [(1, 3 + 5 + 8), (2, 5 + 10 + 15)])
def test_n_epochs_counts_passes_over_the_replay(n_epochs, n_updates):
    model = dot_model(n_epochs=n_epochs).learn(30)  # trains on 10, 20 and 30 steps, in batches of 4
    assert model._n_updates == n_updates


def test_videos_of_several_tasks_pretrain_once_and_each_task_goes_on_alone(tmp_path):
    other, _, _ = dot_videos(2, seed=1)
    tiny_model(DotEnv(), [*VIDEOS, *other]).pretrain().save(tmp_path / "mixed")
    model = BCVLR.load(tmp_path / "mixed", env=DotEnv(episode_length=9), videos=other, device="cpu")
    before = snapshot(model)
    model.learn(20)
    assert moved(before, snapshot(model)) == {"idm", "action_decoder", "latent_policy"}
    assert model.videos.n_episodes == 2


def test_set_env_keeps_what_was_pretrained():
    model = dot_model(make_vec_env(DotEnv, 2)).pretrain()
    before = snapshot(model)
    model.set_env(make_vec_env(lambda: DotEnv(episode_length=9), 2))
    model.learn(20)
    assert moved(before, snapshot(model)) == {"idm", "action_decoder", "latent_policy"}


# ---- alignment without interaction ----


def test_align_moves_what_online_learning_moves_without_a_step_in_the_environment():
    model = dot_model().pretrain()
    before = snapshot(model)
    model.align(zip(VIDEOS, ACTIONS, strict=True), gradient_steps=5, imitation_steps=5, n_rounds=2)
    assert moved(before, snapshot(model)) == {"idm", "action_decoder", "latent_policy"}
    assert model.num_timesteps == 0 and model._n_updates == 5


def test_align_follows_the_schedules_of_learning_rates():
    model = dot_model(learning_rate=lambda remaining: 0.1 * remaining, idm_learning_rate=lambda remaining: 0.2 * remaining)
    model.align(zip(VIDEOS, ACTIONS, strict=True), gradient_steps=4, imitation_steps=4, n_rounds=4)
    assert model.latent_policy_optimizer.param_groups[0]["lr"] == 0
    assert model.finetune_optimizer.param_groups[0]["lr"] == 0


def test_aligned_transitions_are_windows_of_one_episode_with_scaled_actions():
    model = dot_model()
    samples = model._store(zip(VIDEOS, ACTIONS, strict=True)).sample(300)
    pairs = {
        (frames[t].tobytes(), frames[t + 1].tobytes()): actions[t] / 2
        for frames, actions in zip(VIDEOS, ACTIONS, strict=True)
        for t in range(len(actions))
    }
    found = {}
    for window, action in zip(samples.frames.numpy(), samples.actions.numpy(), strict=True):
        key = tuple(frame.transpose(1, 2, 0).tobytes() for frame in window[-2:])
        found[key] = np.allclose(pairs[key], action, atol=1e-6)
    assert found.keys() == pairs.keys() and all(found.values())


def test_align_takes_discrete_actions():
    rng = np.random.default_rng(0)
    model = tiny_model()
    before = snapshot(model.pretrain())
    model.align([(rng.integers(256, size=(9, 16, 16, 3), dtype=np.uint8), rng.integers(3, size=8))], 4, 4, 2)
    assert "action_decoder" in moved(before, snapshot(model))


def test_align_refuses_as_many_actions_as_observations():
    with pytest.raises(ValueError, match="one observation more than actions"):
        dot_model().align([(VIDEOS[0], VIDEOS[0][:, 0, 0, :2])])


@pytest.mark.parametrize("actions", [np.full((3, 2), 2.5), np.full((3, 2), np.nan)])
def test_align_refuses_actions_that_the_environment_does_not_take(actions):
    with pytest.raises(ValueError, match="Episode 0 has actions from"):
        dot_model().align([(VIDEOS[0][:4], actions)])


def test_align_refuses_actions_of_another_width():
    with pytest.raises(ValueError, match=r"Episode 0 has .* actions of shape \(3, 3\), expected .* and \(3, 2\)"):
        dot_model().align([(VIDEOS[0][:4], np.zeros((3, 3)))])


def test_align_refuses_an_episode_that_stands_alone():
    with pytest.raises(ValueError, match=r"Episode 0 has 4 parts, expected \(observations, actions\)"):
        dot_model().align((VIDEOS[0][:4], np.zeros((3, 2))))


@pytest.mark.parametrize("numbers", [{"gradient_steps": -5}, {"imitation_steps": -5}, {"n_rounds": 0}])
def test_align_refuses_numbers_that_would_do_nothing(numbers):
    with pytest.raises(ValueError, match=f"{next(iter(numbers))} is .*, expected a whole number"):
        dot_model().align(zip(VIDEOS, ACTIONS, strict=True), **numbers)


def test_align_refuses_discrete_actions_that_are_too_many():
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="from 0 to 3, expected those of the environment: Discrete"):
        tiny_model().align([(frames, np.array([0, 1, 3]))])


def test_align_refuses_observations_of_another_kind():
    with pytest.raises(ValueError, match="one observation more than actions"):
        dot_model().align([(VIDEOS[0][0], np.zeros((3, 2)))])


@pytest.mark.parametrize("actions", [[0.5, 1.0], [0.0, 1.9]])
def test_align_refuses_discrete_actions_that_are_no_whole_numbers(actions):
    with pytest.raises(ValueError, match=f"from {actions[0]} to {actions[1]}, expected those of the environment: Discrete"):
        tiny_model().align([(np.zeros((3, 16, 16, 3), np.uint8), np.array(actions))])


def test_align_refuses_pictures_that_are_no_uint8():
    with pytest.raises(ValueError, match="Episode 0 has observations of float32, expected uint8"):
        dot_model().align([(VIDEOS[0][:4].astype(np.float32) / 255, ACTIONS[0][:3])])


def test_align_refuses_an_episode_without_an_action():
    with pytest.raises(ValueError, match="at least one action"):
        dot_model().align([(VIDEOS[0][:1], ACTIONS[0][:0])])


def test_align_refuses_nothing():
    with pytest.raises(ValueError, match="no transition to align with"):
        dot_model().align([])


# ---- it learns ----


def test_it_learns_to_push_the_dot_from_videos_of_other_levels():
    videos, _, video_return = dot_videos(300)
    model = BCVLR(
        make_vec_env(DotEnv, 4, seed=0),
        videos,
        learning_starts=500,
        rollout_steps=500,
        pretrain_encoder_steps=30,
        pretrain_dynamics_steps=150,
        quantizer_warmup_steps=0,
        pretrain_imitation_steps=100,
        gradient_steps=50,
        imitation_steps=200,
        seed=0,
        device="cpu",
    )
    env = make_vec_env(DotEnv, 16, seed=99)
    before, _ = evaluate_policy(model, env, 64)
    model.learn(1_500)
    after, _ = evaluate_policy(model, env, 64)
    assert before < 0.2 * video_return
    assert after > 0.75 * video_return


def test_rewards_of_nan_change_nothing():
    class NaN(DotEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    assert equal(snapshot(dot_model().learn(30)), snapshot(dot_model(NaN()).learn(30)))


def test_a_pass_over_the_replay_is_one_over_all_environments():
    assert dot_model(make_vec_env(DotEnv, 2), n_epochs=1).learn(30)._n_updates == 3 + 5 + 8


@pytest.mark.parametrize("n_rounds", [1, 2, 3])
def test_align_makes_all_its_imitation_steps(n_rounds):
    model, steps = dot_model().pretrain(), []
    imitate = model._imitate_videos
    model._imitate_videos = lambda n, optimizer: steps.append(n) or imitate(n, optimizer)
    model.align(zip(VIDEOS, ACTIONS, strict=True), gradient_steps=3, imitation_steps=5, n_rounds=n_rounds)
    assert sum(steps) == 5 and len(steps) == n_rounds


def test_align_pretrains_what_is_not():
    assert dot_model().align(zip(VIDEOS, ACTIONS, strict=True), 1, 1, 1).pretrained


def test_align_without_videos_is_refused():
    model = dot_model().pretrain()
    model.videos = None
    with pytest.raises(ValueError, match="no videos to learn from"):
        model.align(zip(VIDEOS, ACTIONS, strict=True), 1, 1, 1)


def test_an_episode_that_ends_as_the_next_one_begins_ends_nonetheless():
    first, second = (np.full((3, 32, 32, 3), 1, np.uint8) for _ in range(2))
    first[2] = second[0] = 5
    samples = dot_model()._store([(first, np.ones((2, 2))), (second, -np.ones((2, 2)))]).sample(300)
    assert {tuple(window) for window in samples.frames[:, 1:, 0, 0, 0].tolist()} == {(1, 1), (1, 5), (5, 1)}


def test_random_actions_last_in_every_environment():
    actions = dot_model(make_vec_env(DotEnv, 2), learning_starts=16, random_action_steps=4).learn(16).replay_buffer.actions[:8]
    assert (actions[:4] == actions[0]).all() and (actions[4:] == actions[4]).all() and (actions[0] != actions[4]).any()


def test_a_world_model_that_learns_online_follows_its_statistics():
    model = dot_model(world_model_learning_rate=1e-3).pretrain()
    before = snapshot(model)
    after = snapshot(model.learn(20))
    assert not any(th.equal(after[name], before[name]) for name in before if name.endswith("running_mean"))


def labelled() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(VIDEOS, ACTIONS, strict=True))


def test_the_rates_of_an_alignment_go_from_their_start_to_their_end(monkeypatch):
    model, rates = dot_model(learning_rate=lambda remaining: 0.1 * remaining).pretrain(), []
    imitate = model._imitate_videos
    monkeypatch.setattr(
        model, "_imitate_videos", lambda n, optimizer: rates.append(optimizer.param_groups[0]["lr"]) or imitate(n, optimizer)
    )
    model.align(labelled(), 3, 3, n_rounds=3)
    assert rates == pytest.approx([0.1, 0.05, 0])


def test_each_round_of_an_alignment_is_logged():
    model, memory = dot_model().pretrain(), Memory()
    model.set_logger(Logger(None, [memory]))
    model.align(labelled(), 3, 3, n_rounds=3)
    assert [step for step, values in memory.lines if "train/action_loss" in values] == [1, 2, 3]


def test_an_alignment_has_a_log_of_its_own(tmp_path):
    dot_model(tensorboard_log=str(tmp_path)).pretrain().align(labelled(), 1, 1, 1)
    assert {folder.name for folder in tmp_path.iterdir()} == {"BCVLR_pretrain_1", "BCVLR_align_1"}


def test_an_alignment_learns_from_batches_of_the_online_stage():
    model, sizes = dot_model(batch_size=8, dynamics_batch_size=6).pretrain(), []
    model.policy.action_decoder.register_forward_hook(lambda _, __, output: sizes.append(len(output)))
    model.align(labelled(), 2, 2, 1)
    assert set(sizes) == {8}


def test_an_alignment_draws_as_the_seed_says():
    draws = [dot_model(seed=seed)._store(labelled())._rng.integers(2**31) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
