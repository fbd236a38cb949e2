"""The tools of Stable-Baselines3 work as they do with its own algorithms."""

import copy
import pickle

import numpy as np
import pytest
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import ActionPictureEnv, equal, fake_videos, moved, read, snapshot, tiny_model

from sb3_bcvlr import BCVLR
from sb3_bcvlr.envs import stack_frames


@pytest.mark.parametrize("n_envs", [1, 3])
def test_evaluate_policy(n_envs):
    env = DummyVecEnv([lambda: Monitor(ActionPictureEnv(reward=2.0))] * n_envs)
    returns, lengths = evaluate_policy(tiny_model(), env, n_eval_episodes=4, return_episode_rewards=True)
    assert returns == [14.0] * 4
    assert lengths == [7] * 4


def test_eval_callback_saves_the_best_model(tmp_path):
    env = Monitor(ActionPictureEnv(reward=1.0))
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=10, best_model_save_path=str(tmp_path), verbose=0)
    tiny_model().learn(20, callback=callback)
    assert callback.best_mean_reward == 7
    assert callback.n_calls == 20
    assert BCVLR.load(tmp_path / "best_model.zip", device="cpu").pretrained


def test_checkpoints_are_saved_with_the_replay_buffer(tmp_path):
    callback = CheckpointCallback(10, str(tmp_path), save_replay_buffer=True)
    tiny_model().learn(20, callback=callback)
    names = {"rl_model_10_steps.zip", "rl_model_20_steps.zip"}
    replays = {"rl_model_replay_buffer_10_steps.pkl", "rl_model_replay_buffer_20_steps.pkl"}
    assert {path.name for path in tmp_path.iterdir()} == names | replays
    loaded = BCVLR.load(tmp_path / "rl_model_20_steps.zip", env=ActionPictureEnv(), videos=fake_videos(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_20_steps.pkl")
    assert loaded.replay_buffer.size() == 19  # SB3 calls back before it stores the step
    loaded.learn(30, reset_num_timesteps=False)


def test_training_stops_at_a_reward_threshold():
    stop = StopTrainingOnRewardThreshold(reward_threshold=5)
    env = Monitor(ActionPictureEnv(reward=1.0))
    callback = EvalCallback(env, callback_on_new_best=stop, n_eval_episodes=1, eval_freq=12, verbose=0)
    assert tiny_model().learn(100, callback=callback).num_timesteps == 12


def test_a_callback_function_may_stop_before_the_first_rollout_is_over():
    model = tiny_model().learn(100, callback=lambda local, glob: local["self"].num_timesteps < 5)
    assert model.num_timesteps == 5
    assert model.pretrained


@pytest.mark.parametrize("n_stack", [1, 2])
def test_what_a_callback_stopped_goes_on_with_a_new_episode(n_stack):
    model = tiny_model(stack_frames(ActionPictureEnv(), n_stack), n_stack=n_stack, n_history=1, rollout_steps=20)
    model.learn(100, callback=lambda local, glob: local["self"].num_timesteps < 14)  # whose step ends an episode of 7
    model.learn(30, reset_num_timesteps=False)
    episodes = read(model.replay_buffer.sample(500).frames[:, :, -3:])[..., 2]
    assert len(np.unique(episodes)) > 3 and (episodes[:, 0] == episodes[:, 1]).all()


def test_what_an_interrupt_stopped_goes_on_in_all_environments():
    class Interrupted(ActionPictureEnv):
        interrupts = [True]

        def step(self, action):
            if self.n_steps == 3 and self.interrupts:
                self.interrupts.pop()
                raise KeyboardInterrupt
            return super().step(action)

    env = DummyVecEnv([lambda: stack_frames(ActionPictureEnv(), 2), lambda: stack_frames(Interrupted(), 2)])
    model = tiny_model(env, n_history=1)
    with pytest.raises(KeyboardInterrupt):
        model.learn(100)
    assert model.learn(40, reset_num_timesteps=False).num_timesteps > 40


def test_progress_bars_show_each_stage(capfd):
    pytest.importorskip("rich")
    tiny_model().learn(10, progress_bar=True)
    shown = "".join(capfd.readouterr())
    assert all(stage in shown for stage in ("encoder", "latent actions", "imitation"))


def test_a_stage_without_steps_shows_no_progress_bar(capfd):
    tiny_model(pretrain_encoder_steps=0).pretrain(progress_bar=True)
    shown = "".join(capfd.readouterr())
    assert "encoder" not in shown
    assert "latent actions" in shown


def test_pretraining_shows_progress_only_when_asked(capfd):
    tiny_model().pretrain()
    assert capfd.readouterr() == ("", "")


def test_set_env_goes_on_in_another_environment():
    model = tiny_model().learn(20)
    other = ActionPictureEnv(episode_length=3)
    model.set_env(other)
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 40
    assert other.n_episodes >= 6


def test_the_environment_can_be_got():
    model = tiny_model(DummyVecEnv([ActionPictureEnv] * 2))
    assert model.get_env().num_envs == 2


def test_returns_of_episodes_are_averaged():
    model = tiny_model(ActionPictureEnv(reward=3.0), stats_window_size=2).learn(28)
    assert [info["r"] for info in model.ep_info_buffer] == [21, 21]


def test_a_copy_learns_and_acts_by_itself():
    env = stack_frames(ActionPictureEnv(), 2)  # channels first: SB3's VecTransposeImage cannot be copied
    model = tiny_model(env, idm_learning_rate=1e-3, action_decoder_learning_rate=1e-3).learn(20)
    before, clone = snapshot(model), copy.deepcopy(model)
    clone.learn(20, reset_num_timesteps=False)
    assert equal(before, snapshot(model))
    assert moved(before, snapshot(clone)) == {"idm", "action_decoder", "latent_policy"}


def test_a_model_without_environment_can_be_pickled(tmp_path):
    tiny_model().learn(20).save(tmp_path / "m.zip")
    model = BCVLR.load(tmp_path / "m.zip", device="cpu")
    assert equal(snapshot(pickle.loads(pickle.dumps(model))), snapshot(model))
