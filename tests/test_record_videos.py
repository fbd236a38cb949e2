"""The recorder of expert videos, its experts, and what is read back."""

import sys

import experts
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from record_videos import Recorder, Settings, goal_reached, main, perturbed, read_table, record_all
from toys import SIZE, picture

from sb3_bcvlr import VideoDataset
from sb3_bcvlr.common.files import read_csv
from sb3_bcvlr.common.video_io import read_video
from sb3_bcvlr.envs.rendering import ActionRepeat

FORAGING = gym.make("sb3_bcvlr/Foraging-v0").unwrapped


class GoalEnv(gym.Env):
    """Shows the action just taken, 0 to 2, and says that the goal is reached at step 3."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.n_steps = 0
        return picture(-1, 0, 0), {}

    def step(self, action):
        self.n_steps += 1
        return picture(int(action), self.n_steps, 0), 1.0, False, self.n_steps == 10, {"is_success": self.n_steps >= 3}


gym.register("toys/Goal-v0", GoalEnv)


def always_two(observation):
    return 2


def record(folder, n_episodes=2, n_workers=1, actions=None, **settings):
    return record_all(Settings(**settings), folder, actions, n_episodes, n_workers)


def record_goal(folder, **settings):
    return record(folder, **{"env": "toys/Goal-v0", "expert": "test_record_videos:always_two", "noise": 0.0, **settings})


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_row_tells_length_return_and_settings(tmp_path):
    row = record(tmp_path, n_episodes=1, seed=3)[0]
    assert read_csv(tmp_path / "episodes.csv") == [{key: str(value) for key, value in row.items()}]
    assert (row["file"], row["length"], row["success"]) == ("00000.mp4", 61, "")
    assert (row["env"], row["seed"], row["noise"]) == ("sb3_bcvlr/Foraging-v0", "3", "0.1")


def test_a_clip_ends_n_steps_after_the_goal(tmp_path):
    row = record_goal(tmp_path, n_episodes=1, stop_after_success=2)[0]
    assert (row["length"], row["return"], row["success"]) == (1 + 3 + 2, 5.0, 1)


def test_a_clip_cannot_end_after_a_goal_that_is_never_told(tmp_path):
    with pytest.raises(ValueError, match="Foraging-v0 does not tell when its goal is reached"):
        record(tmp_path, stop_after_success=2)


def test_a_clip_ends_at_max_steps_without_success(tmp_path):
    row = record_goal(tmp_path, n_episodes=1, max_steps=2)[0]
    assert (row["length"], row["success"]) == (3, 0)


def test_an_episode_depends_on_the_seed_and_its_number_alone(tmp_path):
    record(tmp_path / "at_once", n_episodes=3)
    record(tmp_path / "by_and_by", n_episodes=1)
    record(tmp_path / "by_and_by", n_episodes=3)
    record(tmp_path / "other", n_episodes=3, seed=1)
    at_once = contents(tmp_path / "at_once")
    assert contents(tmp_path / "by_and_by") == at_once
    assert not set(contents(tmp_path / "other").values()) & set(at_once.values())


def test_two_processes_write_the_same_videos(tmp_path, monkeypatch):
    record(tmp_path / "one")
    monkeypatch.setattr(Recorder, "__call__", lambda *_: 1 / 0)  # in this process; fresh ones know nothing of it
    record(tmp_path / "two", n_workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_only_missing_episodes_are_recorded(tmp_path):
    record(tmp_path, n_episodes=3)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.mp4")}
    (tmp_path / "00001.mp4").unlink()
    record(tmp_path, n_episodes=3)
    changed = {file.name for file in tmp_path.glob("*.mp4") if file.stat().st_mtime_ns != before[file.name]}
    assert changed == {"00001.mp4"}


def test_other_settings_are_refused_in_the_same_folder(tmp_path):
    record(tmp_path, n_episodes=1)
    with pytest.raises(ValueError, match=r"was recorded with noise='0.1', not '0.5'. Go on with these"):
        record(tmp_path, noise=0.5)


def test_actions_lead_from_each_frame_to_the_next(tmp_path):
    record(tmp_path / "videos", n_episodes=1, actions=tmp_path / "labelled")
    with np.load(tmp_path / "labelled" / "00000.npz") as chunk:
        frames, actions, done = chunk["obs"], chunk["ta"], chunk["done"]
    assert np.array_equal(read_video(tmp_path / "videos" / "00000.mp4"), frames)
    FORAGING.reset(seed=int(np.random.default_rng((0, 0)).integers(2**31)))
    assert all(np.array_equal(FORAGING.step(actions[t])[0], frames[t + 1]) for t in range(60))
    assert np.flatnonzero(done).tolist() == [60]


def test_no_video_of_procgen_shows_its_last_picture_twice(tmp_path):
    """Procgen never draws how an episode ends, and the environment repeats what it drew before."""
    pytest.importorskip("procgen")
    procgen = {"env": "procgen/fruitbot-v0", "expert": "test_record_videos:always_two", "noise": 0.5}
    record(tmp_path / "videos", 3, actions=tmp_path / "labelled", **procgen)
    for labelled in sorted((tmp_path / "labelled").iterdir()):
        with np.load(labelled) as chunk:
            frames, actions, done = chunk["obs"], chunk["ta"], chunk["done"]
        assert len(frames) == len(actions) and np.flatnonzero(done).tolist() == [len(frames) - 1]
        assert np.array_equal(read_video(tmp_path / "videos" / f"{labelled.stem}.mp4"), frames)
        assert not np.array_equal(frames[-1], frames[-2])  # fruitbot scrolls at every step


def test_labelled_chunks_hold_the_episodes_of_the_videos(tmp_path):
    record(tmp_path / "videos", actions=tmp_path / "labelled")
    videos, labelled = VideoDataset(tmp_path / "videos"), VideoDataset(tmp_path / "labelled")
    assert videos.episode_lengths.tolist() == labelled.episode_lengths.tolist() == [61, 61]


def test_actions_within_the_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="each episode would be read twice"):
        record(tmp_path, actions=tmp_path / "labelled")


def test_noise_is_a_part_of_half_the_range_and_stays_in_it():
    space, rng = spaces.Box(-1, 3, (10_000,), np.float32), np.random.default_rng(0)
    noisy = perturbed(np.ones(10_000), space, 0.1, rng)
    assert noisy.std() == pytest.approx(0.2, rel=0.05)
    assert abs(perturbed(np.ones(10_000), space, 9.0, rng) - 1).max() == 2


def test_noise_of_discrete_actions_is_the_probability_of_a_random_one():
    rng = np.random.default_rng(0)
    actions = [int(perturbed(0, spaces.Discrete(2), 0.5, rng)) for _ in range(4_000)]
    assert np.mean(actions) == pytest.approx(0.25, abs=0.03)


def test_actions_of_another_shape_are_the_experts_fault():
    with pytest.raises(ValueError, match=r"The expert acts by arrays of shape \(2,\), expected \(4,\)"):
        perturbed(np.ones(2), spaces.Box(-1, 1, (4,)), 0.1, np.random.default_rng(0))


def test_a_model_of_another_class_is_told(tmp_path):
    (tmp_path / "m.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m.zip cannot be read as --algo sac, expected the class that wrote it"):
        record(tmp_path / "out", expert=str(tmp_path / "m.zip"), algo="sac")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "procgen/maze-v0"}, "procgen/maze-v0 has no expert of its own; give --expert"),
        ({"env": "dmcontrol/finger_spin-v0"}, "The planner knows reacher_easy, .* not finger_spin; train an expert"),
        ({"expert": "no_module:act"}, "Got the expert no_module:act, expected MODEL.zip or"),
        ({"expert": "none.zip", "algo": "sac"}, "Got --expert none.zip --algo sac, expected a file that exists"),
        ({"image_size": 84}, "sb3_bcvlr/Foraging-v0 takes no image_size"),
    ],
)
def test_wrong_settings_are_named_with_the_cure(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_the_script_needs_a_folder_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["record_videos.py", "--out", str(tmp_path), "--episodes", "1", "--workers", "1"])
    main()
    assert capsys.readouterr().out.startswith("1 episodes, 61 frames, mean return ")


@pytest.fixture
def state_env():
    """Environments of DMControl that show their state: nothing is rendered."""
    pytest.importorskip("dm_control")
    from train_expert import state_env

    return state_env


def test_the_reacher_cost_is_the_distance_from_the_target(state_env):
    env = state_env("reacher_hard", 1).unwrapped
    env.reset(seed=0)
    cost = experts.reacher_cost(env.physics.model.ptr, env.physics.data.qpos[None])
    assert cost == pytest.approx(env.physics.finger_to_target_dist())


def test_the_cup_costs_least_where_the_ball_is_caught(state_env):
    env = state_env("ball_in_cup_catch", 1).unwrapped
    positions = np.random.default_rng(0).uniform((-0.1, -0.1, -0.1, 0.1), (0.1, 0.1, 0.1, 0.6), size=(1_000, 4))
    caught = []
    for position in positions:
        with env.physics.reset_context():
            env.physics.data.qpos[:] = position
        caught.append(env.physics.in_target())
    assert 0 < np.mean(caught) < 1
    assert np.array_equal(experts.ball_in_cup_cost(None, positions) < 0, np.array(caught) == 1)


def test_the_planner_reaches_the_target_and_stays(state_env):
    env = state_env("reacher_hard", 2)
    observation, _ = env.reset(seed=0)
    policy = experts.planner("reacher_hard")(env, np.random.default_rng(0))
    rewards = [env.step(policy(observation, {}))[1] for _ in range(60)]
    assert sum(rewards[-20:]) == 40  # two simulated steps of 1 each


def test_the_planner_leaves_the_simulation_as_it_is(state_env):
    env = state_env("reacher_hard", 2)
    env.reset(seed=0)
    before = env.unwrapped.physics.get_state().copy()
    experts.planner("reacher_hard")(env, np.random.default_rng(0))(None, {})
    assert np.array_equal(env.unwrapped.physics.get_state(), before)


def test_a_row_tells_how_the_pictures_were_drawn(state_env, tmp_path):
    columns = Recorder(Settings(env="dmcontrol/reacher_hard-v0", action_repeat=4), tmp_path, None).columns
    expected = {"action_repeat": "4", "image_size": "64", "fast_rendering": "True", "camera": "0"}
    assert {name: columns[name] for name in expected} == expected


def test_another_camera_can_be_asked_for(state_env, tmp_path):
    settings = Settings(env="dmcontrol/reacher_hard-v0", camera="1")
    assert Recorder(settings, tmp_path, None).columns["camera"] == "1"


def test_a_table_without_a_column_goes_on_where_nothing_was_asked_for(tmp_path):
    (tmp_path / "episodes.csv").write_text("file,env\n00000.mp4,a\n")
    assert read_table(tmp_path / "episodes.csv", {"env": "a", "camera": ""}).keys() == {"00000.mp4"}
    with pytest.raises(ValueError, match="camera='', not 'top'"):
        read_table(tmp_path / "episodes.csv", {"env": "a", "camera": "top"})


def test_the_goal_is_reached_where_a_step_earns_all_it_can(state_env):
    env = state_env("point_mass_easy", 1)
    env.reset(seed=0)
    assert not goal_reached(env, {})
    with env.unwrapped.physics.reset_context():
        env.unwrapped.physics.data.qpos[:] = 0
    assert goal_reached(env, {})


def test_a_scripted_policy_reaches_the_goal():
    pytest.importorskip("metaworld")
    env = gym.make("metaworld/reach-v3", disable_env_checker=True)
    while not isinstance(env, ActionRepeat):  # below the wrappers that render
        env = env.env
    state, info = env.reset(seed=0)
    policy = experts.scripted(env, np.random.default_rng(0))
    for _ in range(50):
        state, *_, info = env.step(policy(None, {"state": state}))
    assert info["success"]


def test_a_model_of_states_is_given_the_state(state_env, tmp_path):
    from stable_baselines3 import SAC

    env = state_env("pendulum_swingup", 2)
    SAC("MlpPolicy", env, buffer_size=1, policy_kwargs={"net_arch": [4]}).save(tmp_path / "m.zip")
    expert, n_stack = experts.find_expert(str(tmp_path / "m.zip"), "dmcontrol/pendulum_swingup-v0", "sac")
    state = {"orientation": np.ones(2), "velocity": np.zeros(1)}
    action = expert(env, np.random.default_rng(0))(np.zeros((3, 64, 64), np.uint8), {"state": state})
    assert action == pytest.approx(
        SAC.load(tmp_path / "m.zip").predict(np.array([1, 1, 0], np.float32), deterministic=True)[0]
    )
    assert n_stack == 1


class GreyEnv(GoalEnv):
    """The same in grey, or with alpha, by the number of channels."""

    def __init__(self, n_channels: int):
        self.n_channels = n_channels
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, n_channels), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.n_steps = 0
        return np.full((SIZE, SIZE, self.n_channels), 7, np.uint8), {}

    def step(self, action):
        _, *rest = super().step(action)
        return np.full((SIZE, SIZE, self.n_channels), 7 + self.n_steps, np.uint8), *rest


gym.register("toys/Grey-v0", GreyEnv, kwargs={"n_channels": 1})
gym.register("toys/Alpha-v0", GreyEnv, kwargs={"n_channels": 4})


def test_grey_pictures_are_recorded_as_such(tmp_path):
    record_goal(tmp_path, n_episodes=1, env="toys/Grey-v0")
    frames = read_video(tmp_path / "00000.mp4")
    assert frames.shape == (11, SIZE, SIZE, 3) and frames[:, 0, 0, 0].tolist() == [*range(7, 18)]


def test_what_is_no_picture_is_not_recorded(tmp_path):
    with pytest.raises(ValueError, match=r"arrays of shape \(16, 16, 4\), expected pictures"):
        record_goal(tmp_path / "new", env="toys/Alpha-v0")
    assert not (tmp_path / "new").exists()


def test_an_environment_of_ones_own_is_found_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_world.py").write_text(
        "import gymnasium\nfrom toys import ActionPictureEnv\ngymnasium.register('mine/World-v0', ActionPictureEnv)\n"
        "def act(observation):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    [row] = record(tmp_path / "videos", n_episodes=1, env="my_world:mine/World-v0", expert="my_world:act", noise=0.0)
    assert row["length"] == 8 and row["env"] == "my_world:mine/World-v0"


class StackedEnv(gym.Env):
    """Three stacked pictures."""

    observation_space = spaces.Box(0, 255, (9, SIZE, SIZE), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros((9, SIZE, SIZE), np.uint8), {}


@pytest.mark.parametrize(("env", "n_stack"), [(StackedEnv, 3), (GoalEnv, 1)])
def test_a_model_tells_how_many_pictures_it_wants_stacked(tmp_path, env, n_stack):
    from stable_baselines3 import DQN

    DQN("MlpPolicy", env(), buffer_size=1, policy_kwargs={"net_arch": [4]}).save(tmp_path / "m.zip")
    assert experts.load_model(tmp_path / "m.zip", "dqn", sample=False)[1] == n_stack
