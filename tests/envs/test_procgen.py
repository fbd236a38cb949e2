"""Procgen as a native vector, as single environments, and which of its actions do the same."""

import ctypes
import importlib.util
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from stable_baselines3 import A2C
from stable_baselines3.common.env_checker import check_env as check_sb3_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_bcvlr.envs import procgen
from sb3_bcvlr.envs.procgen import ProcgenEnv, ProcgenVecEnv, action_groups, make_procgen, time_limit
from sb3_bcvlr.envs.registration import PROCGEN_GAMES

pytestmark = pytest.mark.skipif(importlib.util.find_spec("procgen") is None, reason="procgen-mirror is not installed")

NO_OP = 4

REFERENCE_SCRIPT = """
import sys
import numpy as np
from procgen import ProcgenGym3Env

for game in sys.argv[2:]:
    env = ProcgenGym3Env(num=8, env_name=game, num_threads=1, rand_seed=3, distribution_mode="easy")
    rng, steps = np.random.default_rng(0), []
    for _ in range(150):
        env.act(rng.integers(15, size=8).astype(np.int32))
        rewards, observations, firsts = env.observe()
        steps.append((observations["rgb"], rewards, firsts))
    names = ("frames", "rewards", "firsts")
    np.savez(f"{sys.argv[1]}/{game}.npz", **dict(zip(names, (np.stack(values) for values in zip(*steps)))))
"""


class NoOpPolicy:
    """The least that ``evaluate_policy`` asks of a model."""

    def predict(self, observations, state=None, episode_start=None, deterministic=True):
        return np.full(len(observations), NO_OP), None


def play(env, n_steps, seed=0):
    """Frames, rewards and dones of random play, stacked over time, and the infos of all episode ends in order."""
    rng, steps, ends = np.random.default_rng(seed), [], []
    for _ in range(n_steps):
        *step, infos = env.step(rng.integers(15, size=env.num_envs))
        steps.append(step)
        ends += [info for info in infos if info]
    return *(np.stack(values) for values in zip(*steps, strict=True)), ends


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory):
    """What ProcgenGym3Env gives. Another process, because its package imports gym and changes ``sys.path``."""
    folder = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-c", REFERENCE_SCRIPT, str(folder), "coinrun", "starpilot"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("game", ["coinrun", "starpilot"])
def test_play_is_byte_for_byte_that_of_procgens_own_package(game, reference_folder):
    env = make_procgen(game, 8, seed=3)
    env.reset()
    frames, rewards, dones, _ = play(env, 150)
    with np.load(reference_folder / f"{game}.npz") as reference:
        assert np.array_equal(frames.transpose(0, 1, 3, 4, 2), reference["frames"])
        assert np.array_equal(rewards, reference["rewards"])
        assert np.array_equal(dones, reference["firsts"])


def test_all_16_games_live_side_by_side_in_one_process():
    envs = [make_procgen(game, 2, seed=0) for game in PROCGEN_GAMES]
    for env in envs:
        assert env.observation_space.contains(env.reset()[0])
    for env in envs:
        observations, rewards, dones, infos = env.step(np.array([NO_OP, 7]))
        assert (observations.shape, observations.dtype) == ((2, 3, 64, 64), np.uint8)
        assert (rewards.dtype, dones.dtype, len(infos)) == (np.float32, bool, 2)
        env.close()


def test_play_depends_on_the_seed_and_not_on_the_threads():
    streams = []
    for seed, num_threads in [(1, 0), (1, 3), (2, 0)]:
        env = ProcgenVecEnv("bigfish", 4, seed, num_threads=num_threads)
        env.reset()
        streams.append(play(env, 30)[0])
    assert np.array_equal(streams[0], streams[1])
    assert not np.array_equal(streams[0], streams[2])


def test_levels_are_those_asked_for():
    env = make_procgen("maze", 16, seed=0, num_levels=3, start_level=40)
    seen = set()
    for _ in range(8):
        env.reset()
        seen |= set(env.level_seeds.tolist())
    assert seen == {40, 41, 42}


def test_an_end_tells_of_its_episode_and_other_steps_tell_nothing():
    env = make_procgen("fruitbot", 4, seed=0)
    last_frames, returns, lengths = env.reset(), np.zeros(4), np.zeros(4, int)
    n_ends = 0
    for _ in range(200):
        levels = env.level_seeds
        observations, rewards, dones, infos = env.step(np.full(4, NO_OP))
        returns, lengths = returns + rewards, lengths + 1
        for i, info in enumerate(infos):
            if not dones[i]:
                assert info == {}
                continue
            assert (info["episode"]["r"], info["episode"]["l"]) == (returns[i], lengths[i])
            assert info["level_seed"] == levels[i]
            assert info["level_complete"] is False
            assert info["TimeLimit.truncated"] is False
            assert np.array_equal(info["terminal_observation"], last_frames[i])
            returns[i] = lengths[i] = 0
            n_ends += 1
        assert len({id(info) for info in infos}) == 4
        last_frames = observations
    assert n_ends >= 4


@pytest.mark.parametrize("game", ["maze", "leaper"])
def test_an_episode_as_long_as_the_games_limit_is_truncated(game):
    env = make_procgen(game, 2, seed=0)
    env.reset()
    for _ in range(500):
        _, _, dones, infos = env.step(np.full(2, NO_OP))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] and info["episode"]["l"] == 500 for info in infos)


def test_a_completed_level_is_not_truncated():
    env = make_procgen("maze", 16, seed=0)
    env.reset()
    complete = [info for info in play(env, 200)[-1] if info["level_complete"]]
    assert complete
    assert all(info["episode"]["r"] == 10 and not info["TimeLimit.truncated"] for info in complete)


def test_the_first_reset_gives_the_levels_of_construction_and_the_next_ones_new_levels():
    env = make_procgen("coinrun", 4, seed=0)
    levels = env.level_seeds
    first = env.reset()
    assert np.array_equal(env.level_seeds, levels)
    second = env.reset()
    assert not (env.level_seeds == levels).any()
    assert not np.array_equal(first, second)


def test_a_reset_starts_all_episodes_afresh_and_reports_none():
    env = make_procgen("maze", 2, seed=0)
    env.reset()
    play(env, 30)
    env.reset()
    for _ in range(500):
        _, _, dones, infos = env.step(np.full(2, NO_OP))
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [500, 500]


def test_seed_acts_at_the_next_reset_as_at_construction():
    env, other = make_procgen("coinrun", 2, seed=0), make_procgen("coinrun", 2, seed=9)
    env.reset()
    play(env, 5)
    env.seed(9)
    assert np.array_equal(env.reset(), other.reset())
    assert np.array_equal(play(env, 20)[0], play(other, 20)[0])


def test_what_is_handed_out_stays_as_it_was():
    env = make_procgen("bigfish", 2, seed=0)
    observations = env.reset()
    kept = observations.copy()
    next_observations, rewards, *_ = env.step(np.array([1, 7]))
    assert np.array_equal(observations, kept)
    next_observations[:], rewards[:] = 0, 5
    assert env.get_images()[0].any()
    assert env.step(np.array([1, 7]))[1].max() < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"game": "pong"}, "starpilot"),
        ({"distribution_mode": "insane"}, "easy, hard, extreme, memory"),
        ({"distribution_mode": "memory"}, "bigfish has no mode 'memory'"),
        ({"n_envs": 0}, "n_envs is 0"),
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"num_levels": -1}, "num_levels is -1"),
        ({"start_level": -5}, "start_level is -5"),
        ({"start_level": 2**31 - 2, "num_levels": 5}, r"start_level \+ num_levels"),
    ],
)
def test_arguments_that_would_end_the_process_raise(change, message):
    with pytest.raises(ValueError, match=message):
        make_procgen(**{"game": "bigfish", "n_envs": 1, "seed": 0} | change)


def test_a_negative_number_of_threads_raises():
    with pytest.raises(ValueError, match="num_threads is -1"):
        ProcgenVecEnv("bigfish", 1, seed=0, num_threads=-1)


@pytest.mark.parametrize("actions", [[NO_OP], [-1, 0], [0, 15], [1.5, 0.0]])
def test_wrong_actions_raise(actions):
    env = make_procgen("bigfish", 2, seed=0)
    with pytest.raises(ValueError, match="Expected 2 actions from 0 to 14"):
        env.step(np.array(actions))


@pytest.fixture
def fresh_library():
    procgen._load_library.cache_clear()
    yield
    procgen._load_library.cache_clear()


def test_a_missing_wheel_is_named_with_the_cure(monkeypatch, fresh_library):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sb3_bcvlr\[procgen\]'"):
        make_procgen("maze", 1, seed=0)


def test_missing_system_libraries_are_named_with_the_cure(monkeypatch, fresh_library):
    def fail(*args, **kwargs):
        raise OSError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    with pytest.raises(ImportError, match=r"apt-get install libgl1 libglib2.0-0 .*libGL.so.1"):
        make_procgen("maze", 1, seed=0)


def test_states_bring_back_the_same_future():
    env = make_procgen("fruitbot", 4, seed=0)
    env.reset()
    play(env, 10)
    states = env.get_states()
    frames, rewards, *_ = play(env, 40, seed=1)
    other = make_procgen("fruitbot", 4, seed=5)
    other.set_states(states)
    again, rewards_again, *_ = play(other, 40, seed=1)
    assert np.array_equal(frames, again)
    assert np.array_equal(rewards, rewards_again)


def test_states_of_another_game_or_number_raise():
    maze, heist = make_procgen("maze", 2, seed=0), make_procgen("heist", 2, seed=0)
    with pytest.raises(ValueError, match="not all of maze"):
        maze.set_states(heist.get_states())
    with pytest.raises(ValueError, match="Got 1 states for 2"):
        maze.set_states(maze.get_states()[:1])


def test_a_closed_vector_raises_and_the_others_go_on():
    env, other = make_procgen("maze", 2, seed=0), make_procgen("maze", 2, seed=0)
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.step(np.full(2, NO_OP))
    other.step(np.full(2, NO_OP))


def test_attributes_and_methods_reach_the_vector():
    env = make_procgen("maze", 3, seed=0)
    assert env.get_attr("time_limit") == [500] * 3
    assert env.get_attr("game", indices=1) == ["maze"]
    env.set_attr("marker", 1)
    assert env.get_attr("marker") == [1] * 3
    assert len(env.env_method("get_states")[0]) == 3
    assert not env.has_attr("unheard_of")
    with pytest.raises(ValueError, match="indices must be None"):
        env.set_attr("marker", 2, indices=0)


def test_render_tiles_what_the_environments_show():
    env = make_procgen("maze", 4, seed=0)
    observations = env.reset()
    picture = env.render()
    assert picture.shape == (128, 128, 3)
    assert np.array_equal(picture[:64, :64], observations[0].transpose(1, 2, 0))


def test_evaluate_policy_counts_whole_episodes_under_a_reward_wrapper():
    env = VecNormalize(make_procgen("fruitbot", 4, seed=0), norm_obs=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(NoOpPolicy(), env, n_eval_episodes=8, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 8
    assert all(value == round(value) for value in returns)  # fruitbot pays whole points; normalized ones are not


def test_training_logs_the_episodes():
    env = make_procgen("fruitbot", 16, seed=0)
    model = A2C("MlpPolicy", env, n_steps=40, policy_kwargs={"net_arch": []}, seed=0, device="cpu")
    model.learn(16 * 80)
    assert model.ep_info_buffer
    assert all(episode["l"] > 1 for episode in model.ep_info_buffer)


@pytest.fixture(scope="module")
def make_game():
    """Pickled by value, as a user's own function would be."""

    def make(game, **kwargs):
        import gymnasium

        from sb3_bcvlr.envs.registration import register_envs

        register_envs()
        return gymnasium.make(f"procgen/{game}-v0", **kwargs)

    return make


def test_the_single_environment_passes_the_checks_of_gymnasium_and_sb3(make_game):
    env = make_game("coinrun", render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Its closing check renders anew, for which the spec would have to name the mode.
        check_gymnasium_env(env, skip_render_check=True)
        check_sb3_env(ProcgenEnv("coinrun", render_mode="rgb_array"))


def test_the_single_environment_plays_as_the_vector_does(make_game):
    env, vector = make_game("fruitbot", num_levels=7), make_procgen("fruitbot", 1, seed=4, num_levels=7)
    observation, info = env.reset(seed=4)
    vector_observations = vector.reset()
    ended = False
    while not ended:
        assert np.array_equal(observation, vector_observations[0].transpose(1, 2, 0))
        last = observation
        observation, reward, terminated, truncated, info = env.step(NO_OP)
        vector_observations, rewards, _, infos = vector.step(np.array([NO_OP]))
        assert reward == rewards[0]
        ended = terminated or truncated
    assert np.array_equal(observation, last)
    assert (terminated, truncated) == (True, infos[0]["TimeLimit.truncated"])
    assert info == {"level_seed": infos[0]["level_seed"], "level_complete": False}
    # The next level is the vector's next level: none is skipped.
    observation, info = env.reset()
    assert np.array_equal(observation, vector_observations[0].transpose(1, 2, 0))
    assert info == {"level_seed": vector.level_seeds[0]}


def test_a_reset_in_the_middle_of_an_episode_draws_another_level(make_game):
    env = make_game("coinrun")
    levels = {env.reset(seed=0)[1]["level_seed"]}
    for _ in range(3):
        env.step(7)
        levels.add(env.reset()[1]["level_seed"])
    assert len(levels) == 4


def test_the_single_environment_tells_truncation_from_termination(make_game):
    env = make_game("leaper")
    env.reset(seed=0)
    flags = [env.step(NO_OP)[2:4] for _ in range(500)]
    assert flags == [(False, False)] * 499 + [(False, True)]


@pytest.mark.parametrize(("vec_env_class", "n_envs"), [(DummyVecEnv, 2), (SubprocVecEnv, 1)])
def test_single_environments_run_in_sb3s_vectors(vec_env_class, n_envs, make_game):
    vector = make_procgen("maze", 1, seed=0)  # games here do no harm to those of a child process
    env = vec_env_class([lambda: make_game("maze")] * n_envs)
    env.seed(0)
    assert np.array_equal(env.reset()[0], vector.reset()[0].transpose(1, 2, 0))
    observations, *_ = env.step(np.full(n_envs, 7))
    assert np.array_equal(observations[0], vector.step(np.array([7]))[0][0].transpose(1, 2, 0))
    env.close()


def outcomes(branches, state, follow_up):
    """What each of the 15 actions leads to from ``state``, if all go on with ``follow_up``."""
    branches.set_states([state] * 15)
    steps = [branches.step(actions)[:3] for actions in [np.arange(15), *(np.full(15, action) for action in follow_up)]]
    return [b"".join(values[i].tobytes() for step in steps for values in step) for i in range(15)]


@pytest.mark.parametrize("game", ["fruitbot", "climber"])
def test_actions_of_one_group_do_the_same_and_others_differ_somewhere(game):
    env, branches, rng = make_procgen(game, 8, seed=0), make_procgen(game, 15, seed=0), np.random.default_rng(0)
    env.reset()
    equal = np.ones((15, 15), bool)
    for _ in range(12):
        play(env, 10)
        for state in env.get_states():
            results = outcomes(branches, state, rng.integers(15, size=2))
            equal &= np.array([[a == b for b in results] for a in results])
    groups = action_groups(game)
    assert np.array_equal(equal, groups[:, None] == groups)


def test_every_game_groups_15_actions_and_an_unknown_one_raises():
    for game in PROCGEN_GAMES:
        groups = action_groups(game)
        assert groups.shape == (15,)
        assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))
    with pytest.raises(ValueError, match="Procgen has no task 'pong'"):
        action_groups("pong")


def test_gymnasium_finds_the_environments_by_id(make_game):
    assert isinstance(make_game("heist").unwrapped, ProcgenEnv)
    assert gym.spec("procgen/heist-v0").kwargs == {"game": "heist"}


def test_a_level_completed_in_the_very_last_step_is_not_truncated():
    env = make_procgen("maze", 1, seed=0)
    env.reset()
    env._lengths[0] = env.time_limit
    env._library.previous_complete[0] = 1
    assert not env._end_episode(0, env.get_images()[0])["TimeLimit.truncated"]


@pytest.mark.parametrize(
    ("game", "mode", "expected"),
    [("bigfish", "easy", 6000), ("jumper", "memory", 2000), ("jumper", "hard", 1000), ("heist", "easy", 1000)],
)
def test_the_games_own_limits(game, mode, expected):
    assert time_limit(game, mode) == expected


def test_large_seeds_are_taken_modulo_the_number_of_levels():
    env, other = (make_procgen("coinrun", 2, seed=0) for _ in range(2))
    env.seed(2**31 + 9)
    other.seed(9)
    assert np.array_equal(env.reset(), other.reset())


def test_a_seed_counts_for_one_reset():
    env = make_procgen("coinrun", 4, seed=0)
    env.seed(9)
    env.reset()
    levels = env.level_seeds
    env.reset()
    assert not (env.level_seeds == levels).any()


@pytest.mark.parametrize("touch", [lambda env: env.step(np.full(4, NO_OP)), lambda env: env.set_states(env.get_states())])
def test_the_first_reset_draws_new_levels_if_it_has_been_played(touch):
    env = make_procgen("coinrun", 4, seed=0)
    levels = env.level_seeds
    touch(env)
    env.reset()
    assert not (env.level_seeds == levels).any()


def test_without_a_seed_the_levels_are_any():
    assert len({ProcgenEnv("coinrun").reset()[1]["level_seed"] for _ in range(3)}) == 3
    assert len({make_procgen("coinrun").level_seeds[0] for _ in range(3)}) == 3


def test_a_seed_counts_after_an_end_too():
    env = ProcgenEnv("fruitbot")
    first, _ = env.reset(seed=4)
    while not any(env.step(NO_OP)[2:4]):
        pass
    assert np.array_equal(env.reset(seed=4)[0], first)


def test_hard_levels_are_not_the_easy_ones():
    assert not np.array_equal(
        *(make_procgen("coinrun", 4, seed=0, distribution_mode=mode).reset() for mode in ("easy", "hard"))
    )


def test_the_single_environment_takes_the_arguments_of_the_vector():
    kwargs = dict(num_levels=1, start_level=40, distribution_mode="hard")
    frame, info = ProcgenEnv("coinrun", **kwargs).reset(seed=0)
    assert info == {"level_seed": 40}
    assert np.array_equal(frame, make_procgen("coinrun", 1, seed=0, **kwargs).reset()[0].transpose(1, 2, 0))


def test_the_second_reset_after_an_end_draws_another_level():
    env = ProcgenEnv("fruitbot")
    env.reset(seed=4)
    while not any(env.step(NO_OP)[2:4]):
        pass
    levels = [env.reset()[1]["level_seed"] for _ in range(2)]
    frames = [env.reset()[0] for _ in range(2)]
    assert levels[0] != levels[1] and not np.array_equal(*frames)


def test_pictures_that_are_handed_out_are_copies():
    env = make_procgen("maze", 1, seed=0)
    env.reset()
    env.get_images()[0][:] = 0
    assert env.get_images()[0].any()


def test_a_method_is_called_once_for_all_environments():
    env = make_procgen("maze", 3, seed=0)
    env.count = lambda calls=[]: calls.append(1) or len(calls)
    assert env.env_method("count") == [1, 1, 1]


def test_an_episode_is_cut_by_the_limit_and_not_one_step_before():
    env = make_procgen("maze", 1, seed=0)
    env.reset()
    flags = []
    for length in (env.time_limit - 1, env.time_limit):
        env._lengths[0] = length
        flags.append(env._end_episode(0, env.get_images()[0])["TimeLimit.truncated"])
    assert flags == [False, True]


def test_a_second_reset_tells_the_levels_that_it_began():
    env = make_procgen("coinrun", 4, seed=0)
    env.reset()
    env.reset()
    assert [info["level_seed"] for info in env.reset_infos] == env.level_seeds.tolist()


def test_episodes_of_restored_states_are_counted_from_there():
    env = make_procgen("maze", 1, seed=0)
    env.reset()
    states = env.get_states()
    for _ in range(30):
        env.step(np.full(1, NO_OP))
    env.set_states(states)
    for _ in range(env.time_limit):
        *_, dones, infos = env.step(np.full(1, NO_OP))
    assert dones[0] and infos[0]["episode"]["l"] == env.time_limit


def test_states_of_another_game_are_refused():
    climber, coinrun = make_procgen("climber", 1, seed=0), make_procgen("coinrun", 1, seed=0)  # names of one length
    climber.reset(), coinrun.reset()
    with pytest.raises(ValueError, match="not all of coinrun"):
        coinrun.set_states(climber.get_states())


def test_what_is_done_to_an_observation_does_not_reach_the_picture():
    env = ProcgenEnv("maze", render_mode="rgb_array")
    env.reset(seed=0)
    env.step(NO_OP)[0][:] = 0
    assert env.render().any()
