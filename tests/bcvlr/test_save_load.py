"""A saved model predicts and goes on without anything that is not in its file, which holds no video."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import (
    TINY_NETWORKS,
    ActionPictureEnv,
    DotEnv,
    dot_videos,
    equal,
    fake_videos,
    moved,
    picture,
    read,
    snapshot,
    tiny_arguments,
    tiny_model,
)

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.common.window_replay_buffer import WindowReplayBuffer
from sb3_bcvlr.envs import grayscale, stack_frames

OBSERVATIONS = np.stack([picture(action, step, 0) for action in range(3) for step in range(10)])

DOTS, _, _ = dot_videos(4)


@pytest.fixture(scope="module")
def model():
    return tiny_model().learn(30)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    model.save(path)
    return path


def test_a_loaded_model_predicts_the_same_without_videos_and_env(model, path):
    loaded = BCVLR.load(path, device="cpu")
    assert loaded.videos is None
    assert loaded.env is None
    for deterministic in (True, False):
        actions = []
        for each in (model, loaded):
            th.manual_seed(0)
            actions.append(each.predict(OBSERVATIONS, deterministic=deterministic)[0].tolist())
        assert actions[0] == actions[1]


def fail(*_, **__):
    raise OSError("No space left on device")


def test_a_save_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    monkeypatch.setattr(th, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]
    assert (tmp_path / "model.zip").read_bytes() == before


def test_so_does_a_replay_that_cannot_be_saved(tmp_path, monkeypatch):
    model = tiny_model().learn(10)
    model.save_replay_buffer(tmp_path / "replay")
    before = (tmp_path / "replay.pkl").read_bytes()
    monkeypatch.setattr(WindowReplayBuffer, "__getstate__", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save_replay_buffer(tmp_path / "replay")
    assert [file.name for file in tmp_path.iterdir()] == ["replay.pkl"]
    assert (tmp_path / "replay.pkl").read_bytes() == before


def test_a_model_is_saved_into_an_open_file_too(model):
    file = io.BytesIO()
    model.save(file)
    assert equal(snapshot(BCVLR.load(file, device="cpu")), snapshot(model))


def test_a_loaded_model_has_all_parameters_and_statistics(model, path):
    loaded = BCVLR.load(path, device="cpu")
    assert equal(snapshot(loaded), snapshot(model))
    names = snapshot(loaded).keys()
    assert {"idm.quantizer.codes", "idm.quantizer.counts", "idm.quantizer.sums", "feature_mean", "latent_std"} <= names


@pytest.mark.parametrize("name", ["finetune_optimizer", "latent_policy_optimizer"])
def test_a_loaded_model_has_the_states_of_the_optimizers(model, path, name):
    saved, loaded = (getattr(each, name).state_dict() for each in (model, BCVLR.load(path, device="cpu")))
    assert saved["param_groups"] == loaded["param_groups"]
    assert saved["state"].keys() == loaded["state"].keys() != set()
    for i, state in saved["state"].items():
        assert equal(state, loaded["state"][i])


def test_a_loaded_model_acts_by_the_same_average(tmp_path):
    model = tiny_model(policy_tau=0.1).learn(30)
    model.save(tmp_path / "model.zip")
    loaded = BCVLR.load(tmp_path / "model.zip", device="cpu")
    assert loaded.policy_tau == 0.1
    assert equal(snapshot(loaded), snapshot(model))
    assert any(name.startswith("latent_policy_average.") for name in snapshot(loaded))


@pytest.mark.parametrize("name", ["num_timesteps", "_n_updates", "pretrained", "literal", "n_history", "rollout_steps"])
def test_a_loaded_model_knows_where_it_stands(model, path, name):
    assert getattr(BCVLR.load(path, device="cpu"), name) == getattr(model, name)


def test_a_loaded_model_goes_on_without_pretraining(path, monkeypatch):
    monkeypatch.setattr(BCVLR, "pretrain", None)
    loaded = BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), device="cpu")
    before = snapshot(loaded)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 50
    assert moved(before, snapshot(loaded)) == {"idm", "action_decoder", "latent_policy"}


def test_a_loaded_model_makes_no_random_steps(path, monkeypatch):
    loaded = BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), device="cpu")
    monkeypatch.setattr(loaded.action_space, "sample", None)
    loaded.learn(10)


def test_two_resumed_runs_are_the_same(path):
    runs = [BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), device="cpu").learn(20) for _ in range(2)]
    assert equal(*map(snapshot, runs))


@pytest.mark.parametrize(
    ("kwargs", "message"), [({}, "no environment to learn in"), ({"env": ActionPictureEnv()}, "no videos to learn from")]
)
def test_a_loaded_model_says_what_it_lacks_to_learn(path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        BCVLR.load(path, device="cpu", **kwargs).learn(10)


def test_videos_that_do_not_fit_are_refused_on_loading(path):
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*\(3, 16, 16\)"):
        BCVLR.load(path, videos=VideoDataset(fake_videos(), image_size=8))


def test_a_default_is_accepted_on_loading(path):
    assert BCVLR.load(path, feature_loss_kwargs=None, device="cpu").feature_loss_kwargs == {}


def test_what_is_frozen_stays_frozen_after_loading(path):
    loaded = BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), device="cpu").learn(10)
    assert all(parameter.grad is None for parameter in loaded.policy.world_model.parameters())


def test_no_video_is_in_the_file(path):
    with zipfile.ZipFile(path) as archive:
        tensors = {name for name in archive.namelist() if name.endswith(".pth")}
        assert tensors - {"pytorch_variables.pth"} == {"policy.pth", "finetune_optimizer.pth", "latent_policy_optimizer.pth"}
        data = json.loads(archive.read("data"))
    assert not {"videos", "replay_buffer", "env", "policy", "finetune_optimizer", "latent_policy_optimizer"} & set(data)


def test_the_file_does_not_grow_with_the_videos_or_the_replay(tmp_path):
    sizes = []
    for n_frames, buffer_size in ((8, 100), (400, 10_000)):
        videos = [np.random.default_rng(0).integers(256, size=(n_frames, 16, 16, 3), dtype=np.uint8)]
        tiny_model(videos=videos, buffer_size=buffer_size).save(tmp_path / "model.zip")
        sizes.append((tmp_path / "model.zip").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 1000  # the frames alone are 300 kB


def test_get_parameters_names_policy_and_optimizers(model):
    assert set(model.get_parameters()) == {"policy", "finetune_optimizer", "latent_policy_optimizer"}


def test_set_parameters_carries_over_what_get_parameters_gives(model):
    other = tiny_model(seed=5)
    assert not equal(snapshot(other), snapshot(model))
    other.set_parameters(model.get_parameters(), exact_match=True, device="cpu")
    assert equal(snapshot(other), snapshot(model))


def test_parameters_of_a_pretrained_model_are_not_pretrained_again(model, monkeypatch):
    other = tiny_model(seed=5)
    other.set_parameters(model.get_parameters())
    monkeypatch.setattr(BCVLR, "pretrain", lambda *_, **__: 1 / 0)
    other.learn(20)


def test_parameters_that_were_set_are_not_changed_by_learning_on():
    first, second = (tiny_model(seed=seed).learn(20) for seed in (0, 1))
    start = first.get_parameters()["latent_policy_optimizer"]["state"]
    moments = [tensor for state in start.values() for tensor in state.values()]
    before = [tensor.clone() for tensor in moments]
    second.set_parameters(first.get_parameters())
    second.learn(20)
    assert before and all(map(th.equal, before, moments))


def test_parameters_of_a_new_model_are(model):
    other = tiny_model(seed=5)
    other.set_parameters(tiny_model().get_parameters())
    assert not other.pretrained and model.pretrained


def test_a_pretrained_model_serves_several_seeds(tmp_path):
    pretrained = tiny_model().pretrain()
    pretrained.save(tmp_path / "pretrained.zip")
    runs = {}
    for seed in (1, 2):
        env, videos = ActionPictureEnv(), fake_videos()
        run = BCVLR.load(tmp_path / "pretrained.zip", env=env, videos=videos, seed=seed, device="cpu")
        assert equal(snapshot(run), snapshot(pretrained))
        runs[seed] = snapshot(run.learn(20))
        assert moved(snapshot(pretrained), runs[seed]) == {"idm", "action_decoder", "latent_policy"}
    assert not equal(runs[1], runs[2])


def test_a_model_can_be_pretrained_where_there_is_no_environment(tmp_path):
    tiny_model().save(tmp_path / "model.zip")
    loaded = BCVLR.load(tmp_path / "model.zip", videos=fake_videos(), device="cpu").pretrain()
    assert loaded.pretrained


def test_a_replay_buffer_is_saved_and_goes_on(tmp_path):
    model = tiny_model(ActionPictureEnv(episode_length=10)).learn(30)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "replay.pkl")
    env = ActionPictureEnv(episode_length=10)
    loaded = BCVLR.load(tmp_path / "model.zip", env=env, videos=fake_videos(), device="cpu")
    assert loaded.replay_buffer.size() == 0
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    assert loaded.replay_buffer.size() == 30
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 50
    samples = loaded.replay_buffer.sample(300)
    seen = read(samples.frames)
    assert (seen[:, -1, 0] == samples.actions[:, 0].numpy()).all()
    assert (seen[..., 2] == seen[:, :1, 2]).all()
    assert (seen[:, -1, 1] == seen[:, -2, 1] + 1).all()


@pytest.mark.parametrize(("n_envs", "expected"), [(1, 10), (2, 5), (5, 2), (20, 1)])
def test_another_number_of_environments_keeps_the_rollout_steps(path, n_envs, expected):
    env = DummyVecEnv([ActionPictureEnv] * n_envs)
    loaded = BCVLR.load(path, env=env, videos=fake_videos(), device="cpu")
    assert loaded.train_freq.frequency == expected
    assert loaded.replay_buffer.n_envs == n_envs
    if expected > 1:  # after one step of each environment there is no window yet
        loaded.learn(20)
        assert loaded.num_timesteps == 20


def test_a_train_freq_is_kept_for_another_number_of_environments(tmp_path):
    tiny_model(train_freq=3).save(tmp_path / "model.zip")
    loaded = BCVLR.load(tmp_path / "model.zip", env=DummyVecEnv([ActionPictureEnv] * 2), device="cpu")
    assert loaded.train_freq.frequency == 3


def test_rollout_steps_can_be_changed_on_loading(path):
    assert BCVLR.load(path, env=ActionPictureEnv(), rollout_steps=7, device="cpu").train_freq.frequency == 7


def test_train_freq_overrules_the_saved_rollout_steps_on_loading(path):
    assert BCVLR.load(path, env=ActionPictureEnv(), train_freq=4, device="cpu").train_freq.frequency == 4


def test_the_policy_kwargs_may_be_given_again_on_loading(path):
    BCVLR.load(path, policy_kwargs=tiny_arguments()["policy_kwargs"], device="cpu")


def test_unknown_literal_behaviours_are_refused_on_loading(path):
    with pytest.raises(ValueError, match="is not known"):
        BCVLR.load(path, literal=["zero_count"], device="cpu")


def test_numbers_of_steps_may_be_changed_on_loading(path):
    loaded = BCVLR.load(path, gradient_steps=9, imitation_steps=8, device="cpu")
    assert (loaded.gradient_steps, loaded.imitation_steps) == (9, 8)


def test_learning_rates_may_be_changed_on_loading(path):
    rates = {"idm_learning_rate": 0.5, "action_decoder_learning_rate": 0.25, "world_model_learning_rate": 0.125}
    loaded = BCVLR.load(path, **rates, device="cpu")
    assert [group["lr"] for group in loaded.finetune_optimizer.param_groups] == [0.5, 0.25, 0.125, 0]


def test_schedules_of_learning_rates_are_saved(tmp_path):
    tiny_model(idm_learning_rate=LinearSchedule(0.4, 0.0, 1.0)).learn(20).save(tmp_path / "model.zip")
    loaded = BCVLR.load(tmp_path / "model.zip", env=ActionPictureEnv(), videos=fake_videos(), device="cpu")
    assert loaded.idm_learning_rate(0.5) == 0.2
    assert loaded.finetune_optimizer.param_groups[0]["lr"] == 0  # where it had come to
    before = snapshot(loaded)
    assert "idm" in moved(before, snapshot(loaded.learn(30)))


def test_the_learning_rate_of_the_latent_policy_may_be_changed_on_loading(path):
    loaded = BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), learning_rate=0.5, device="cpu").learn(10)
    assert [group["lr"] for group in loaded.latent_policy_optimizer.param_groups] == [0.5]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"idm_learning_rate": 0}, {"action_decoder", "latent_policy"}),
        ({"world_model_learning_rate": 1e-3}, {"idm", "action_decoder", "latent_policy", "world_model"}),
        ({"tune_encoder": ["online"]}, {"idm", "action_decoder", "latent_policy", "encoder"}),
    ],
)
def test_one_pretraining_serves_the_ablations(path, change, expected):
    loaded = BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), device="cpu", **change)
    before = snapshot(loaded)
    assert moved(before, snapshot(loaded.learn(10))) == expected


@pytest.mark.parametrize(("saved", "changed"), [(1.0, 0.1), (0.1, 1.0)])
def test_the_average_may_be_asked_for_on_loading(tmp_path, saved, changed):
    tiny_model(policy_tau=saved).learn(30).save(tmp_path / "model.zip")
    loaded = BCVLR.load(
        tmp_path / "model.zip", env=ActionPictureEnv(), videos=fake_videos(), policy_tau=changed, device="cpu"
    ).learn(10)
    weights = [each.head.weight for each in (loaded.policy.latent_policy, loaded.policy.latent_policy_average)]
    assert th.equal(*weights) == (changed == 1)


def test_other_neighbors_may_be_asked_for_on_loading(tmp_path):
    model = tiny_model().learn(20)
    model.save(tmp_path / "model.zip")
    loaded = BCVLR.load(tmp_path / "model.zip", n_neighbors=3, device="cpu")
    assert loaded.policy.n_neighbors == 3 and model.policy.n_neighbors == 0
    assert th.equal(loaded.policy.video_latents, model.policy.video_latents)


def test_neighbors_that_are_asked_for_later_act_at_once_and_are_saved(tmp_path):
    model = tiny_model().learn(20)
    model.n_neighbors = 3
    assert model.policy.n_neighbors == 3
    model.save(tmp_path / "model.zip")
    assert BCVLR.load(tmp_path / "model.zip", device="cpu").policy.n_neighbors == 3


def test_stacks_of_grey_frames_are_known_on_loading(tmp_path):
    env = stack_frames(grayscale(ActionPictureEnv()), 3)
    tiny_model(env, n_stack=3).learn(10).save(tmp_path / "model.zip")
    loaded = BCVLR.load(tmp_path / "model.zip", env=env, videos=fake_videos(), device="cpu")
    assert (loaded.n_stack, loaded.videos.n_stack, loaded.videos.observation_shape) == (3, 3, (3, 16, 16))
    loaded.learn(10)


@pytest.mark.parametrize("argument", [{"lerning_rate": 3}, {"policy": "CnnPolicy"}], ids=str)
def test_load_refuses_arguments_that_it_would_not_follow(path, argument):
    with pytest.raises(ValueError, match=rf"load was given {re.escape(str([*argument]))}"):
        BCVLR.load(path, **argument)


def test_returns_are_averaged_over_as_many_episodes_as_load_is_told(path):
    model = BCVLR.load(path, env=ActionPictureEnv(), videos=fake_videos(), stats_window_size=5)
    assert model.learn(10).ep_info_buffer.maxlen == 5


def test_load_refuses_another_history_than_the_saved_networks_have(path):
    with pytest.raises(ValueError, match=r"n_history and policy_kwargs have to be those that it was"):
        BCVLR.load(path, env=ActionPictureEnv(), n_history=1)


def test_a_replay_buffer_that_is_not_there_leaves_the_models_own(tmp_path):
    model = tiny_model().learn(10)
    own = model.replay_buffer
    with pytest.raises(FileNotFoundError):
        model.load_replay_buffer(tmp_path / "nowhere.pkl")
    assert model.replay_buffer is own and own.size() == 10


@pytest.mark.parametrize("change", [{"n_envs": 2}, {"n_history": 1}, {"literal": ["cross_episodes"]}])
def test_a_replay_buffer_of_other_environments_or_windows_is_refused(tmp_path, change):
    first = tiny_model().learn(10)
    first.save_replay_buffer(tmp_path / "replay.pkl")
    n_envs = change.pop("n_envs", 1)
    other = tiny_model(DummyVecEnv([ActionPictureEnv] * n_envs), **change)
    own = other.replay_buffer
    with pytest.raises(ValueError, match=r"replay buffer with (n_envs|n_history|cross_episodes)="):
        other.load_replay_buffer(tmp_path / "replay.pkl")
    assert other.replay_buffer is own


def test_a_replay_buffer_of_other_pictures_is_refused(tmp_path):
    tiny_model(DotEnv(), DOTS).learn(10).save_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(
        ValueError, match=r"replay buffer with obs_shape=\(3, 32, 32\), the model expects obs_shape=\(3, 16, 16\)"
    ):
        tiny_model().load_replay_buffer(tmp_path / "replay.pkl")


def test_a_replay_buffer_of_other_actions_is_refused(tmp_path):
    env = DotEnv()
    env.action_space = spaces.Box(-2, 2, (3,), np.float32)
    tiny_model(DotEnv(), DOTS).learn(10).save_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(
        ValueError, match=r"replay buffer with action_space=Box\(.* \(2,\), float32\), the model expects action_space="
    ):
        tiny_model(env, DOTS).load_replay_buffer(tmp_path / "replay.pkl")


@pytest.mark.parametrize(
    "saved, expected",
    [
        (spaces.Discrete(3), spaces.Discrete(5)),
        (spaces.Discrete(3), spaces.Box(-1, 1, (1,))),
        (spaces.Box(-1, 1, (1,)), spaces.Box(-2, 2, (1,))),
    ],
)
def test_a_replay_buffer_of_as_many_other_actions_is_refused(tmp_path, saved, expected):
    def model(action_space):
        env = ActionPictureEnv()
        env.action_space = action_space
        return tiny_model(env)

    model(saved).save_replay_buffer(tmp_path / "replay.pkl")
    model(saved).load_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(ValueError, match="the model expects action_space="):
        model(expected).load_replay_buffer(tmp_path / "replay.pkl")


def test_a_replay_buffer_of_stacks_is_refused_where_frames_are_colored(tmp_path):
    env = stack_frames(grayscale(ActionPictureEnv()), 3)
    tiny_model(env, n_stack=3, n_history=1).learn(10).save_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(ValueError, match="replay buffer with n_stack=3, the model expects n_stack=1"):
        tiny_model(n_history=1).load_replay_buffer(tmp_path / "replay.pkl")


def test_dots_in_names_are_kept(model, tmp_path):
    for name in ("rate1.5", "rate1.7"):
        model.save(tmp_path / name)
    assert {file.name for file in tmp_path.iterdir()} == {"rate1.5", "rate1.7"}


def test_an_error_that_is_not_of_the_networks_is_told_as_it_is(path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(BCVLR, "set_parameters", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        BCVLR.load(path, device="cpu")


def test_a_quantizer_that_is_left_out_stays_out_with_other_parameters():
    quantizer_kwargs = {**TINY_NETWORKS["quantizer_kwargs"], "enabled": False}
    first, second = (tiny_model(policy_kwargs={"quantizer_kwargs": quantizer_kwargs}) for _ in range(2))
    second.set_parameters(first.pretrain().get_parameters())
    assert second.policy.idm.quantizer.bypass
