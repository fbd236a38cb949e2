"""The foraging world: its rules, its pictures and its expert."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from sb3_bcvlr.envs.foraging import CELL, MOVES, N_CELLS, ForagingEnv

LEFT, RIGHT, UP, DOWN = range(4)


def play(env, act, seed=None):
    """Pictures, rewards and actions of an episode."""
    pictures, rewards, actions, over = [env.reset(seed=seed)[0]], [], [], False
    while not over:
        actions.append(act(env))
        picture, reward, terminated, truncated, _ = env.step(actions[-1])
        pictures.append(picture)
        rewards.append(reward)
        over = terminated or truncated
    return np.stack(pictures), rewards, actions


def expert(env):
    return env.expert_action()


def randomly(env):
    return env.np_random.integers(4)


def place(env, forager, fruit=(6, 6), thorns=()):
    """A level by hand; thorns are the cells that hurt."""
    env.reset(seed=0)
    env.thorny[:] = False
    for cell in thorns:
        env.thorny[cell] = True
    env.forager, env.fruit, env._distances = np.array(forager), np.array(fruit), None


def forager_corner(picture):
    """Top left pixel of what is as bright as the forager."""
    rows, columns = np.nonzero((picture == 245).all(-1))
    return np.array((rows.min(), columns.min()))


def test_gymnasium_is_content():
    check_gymnasium_env(gym.make("sb3_bcvlr/Foraging-v0", render_mode="rgb_array").unwrapped)


def test_sb3_is_content():
    check_sb3_env(ForagingEnv(), warn=False)  # it would warn that SB3's own CnnPolicy asks for 36 pixels


def test_pictures_are_32_pixels_wide():
    assert ForagingEnv().reset(seed=0)[0].shape == (32, 32, 3) == ((N_CELLS + 1) * CELL, (N_CELLS + 1) * CELL, 3)


def test_the_same_seed_gives_the_same_episodes():
    first, second, other = (play(ForagingEnv(), randomly, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert not np.array_equal(first[0][0], other[0][0])


def test_each_episode_is_another_level():
    env = ForagingEnv()
    env.reset(seed=0)
    levels = [(env.reset()[0], env.thorny.copy()) for _ in range(10)]
    assert len({picture.tobytes() for picture, _ in levels}) == 10
    assert len({thorny.tobytes() for _, thorny in levels}) > 5


@pytest.mark.parametrize("episode_length", [1, 60])
def test_an_episode_is_truncated_at_its_length(episode_length):
    env = ForagingEnv(episode_length=episode_length)
    assert len(play(env, randomly, 0)[1]) == episode_length
    assert env.reset()[0].shape == (32, 32, 3)


@pytest.mark.parametrize(("action", "offset"), [(LEFT, (0, -1)), (RIGHT, (0, 1)), (UP, (-1, 0)), (DOWN, (1, 0))])
def test_each_action_moves_the_forager_by_cell_pixels(action, offset):
    env = ForagingEnv()
    place(env, (3, 3))
    before = forager_corner(env._picture())
    after = forager_corner(env.step(action)[0])
    assert (after - before).tolist() == [CELL * step for step in offset] == (CELL * MOVES[action]).tolist()


@pytest.mark.parametrize(("action", "corner"), [(LEFT, (0, 0)), (UP, (0, 0)), (RIGHT, (6, 6)), (DOWN, (6, 6))])
def test_walls_hold_the_forager(action, corner):
    env = ForagingEnv()
    place(env, corner, fruit=(3, 3))
    env.step(action)
    assert env.forager.tolist() == list(corner)


@pytest.mark.parametrize(
    ("forager", "fruit", "thorns", "expected"),
    [
        ((3, 3), (6, 6), [], 0),
        ((3, 3), (3, 5), [], 1),  # one step right: a cell beside the fruit touches it
        ((3, 3), (5, 5), [], 0),  # two rows below
        ((3, 3), (6, 6), [(3, 4)], -0.25),
        ((3, 3), (6, 6), [(3, 3)], 0),  # it leaves the thorns
        ((3, 3), (3, 5), [(3, 4)], 0.75),
    ],
)
def test_the_reward_of_a_step_to_the_right(forager, fruit, thorns, expected):
    env = ForagingEnv()
    place(env, forager, fruit, thorns)
    assert env.step(RIGHT)[1] == expected


def test_an_eaten_fruit_grows_elsewhere_out_of_reach():
    env = ForagingEnv()
    place(env, (3, 3), fruit=(3, 5))
    env.step(RIGHT)
    assert np.abs(env.fruit - env.forager).max() > 2


@pytest.mark.parametrize("n_thorns", [0, 1, 2])
def test_the_fruit_can_always_be_reached(n_thorns):
    env = ForagingEnv(n_thorns=n_thorns)
    for seed in range(100):
        env.reset(seed=seed)
        assert not env.thorny[tuple(env.fruit)]
        assert not env.thorny[tuple(env.forager)]
        assert np.isfinite(env._distances_from(tuple(env.fruit))[tuple(env.forager)])


def test_thorns_cover_three_cells_of_each_axis():
    env = ForagingEnv(n_thorns=1)
    for seed in range(20):
        env.reset(seed=seed)
        rows, columns = env.thorns[0]
        assert env.thorny.sum() == len({*range(max(rows - 1, 0), min(rows + 2, 7))}) * len(
            {*range(max(columns - 1, 0), min(columns + 2, 7))}
        )


def test_the_expert_keeps_off_the_thorns():
    env = ForagingEnv()
    for seed in range(10):
        assert min(play(env, expert, seed)[1]) == 0


def test_the_expert_goes_a_shortest_way():
    env = ForagingEnv()
    place(env, (3, 0), fruit=(3, 6), thorns=[(3, 2)])
    rewards = [env.step(env.expert_action())[1] for _ in range(6)]
    assert rewards == [0, 0, 0, 0, 0, 1]  # five columns and, around the thorns, one row: beside the fruit is near enough


def test_the_expert_goes_along_the_longer_axis_first():
    env = ForagingEnv()
    place(env, (0, 0), fruit=(5, 2))
    assert env.expert_action() == DOWN
    place(env, (0, 0), fruit=(2, 5))
    assert env.expert_action() == RIGHT


def test_the_expert_is_far_better_than_chance():
    env = ForagingEnv()
    returns = {act: np.mean([sum(play(env, act, seed)[1]) for seed in range(20)]) for act in (expert, randomly)}
    assert returns[expert] > 12  # a fruit every 4 of 60 steps is 15
    assert returns[randomly] < 3


@pytest.mark.parametrize(("render_mode", "shape"), [(None, None), ("rgb_array", (32, 32, 3))])
def test_it_renders_what_it_observes(render_mode, shape):
    env = ForagingEnv(render_mode=render_mode)
    observation, _ = env.reset(seed=0)
    rendered = env.render()
    assert (rendered is None) if shape is None else np.array_equal(rendered, observation)


@pytest.mark.parametrize("n_thorns", [0, 3, 4])
def test_levels_with_many_thorns_have_a_place_for_forager_and_fruit(n_thorns):
    env = ForagingEnv(n_thorns=n_thorns)
    for seed in range(60):
        play(env, expert, seed)


@pytest.mark.parametrize("n_thorns", [-1, 5])
def test_too_many_thorns_are_refused(n_thorns):
    with pytest.raises(ValueError, match=f"n_thorns is {n_thorns}, expected 0 to 4"):
        ForagingEnv(n_thorns=n_thorns)


def test_each_thorn_is_seen():
    env = ForagingEnv(n_thorns=2)
    picture, _ = env.reset(seed=0)
    purple = (picture == (150, 40, 200)).all(-1)
    assert len(env.thorns) and all(purple[CELL * (row + 1), CELL * (column + 1)] for row, column in env.thorns)
