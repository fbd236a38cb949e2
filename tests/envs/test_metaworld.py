"""Meta-World as pixels: goals, success, cameras, and the scripted policies."""

import importlib.util
import subprocess
import sys
from importlib import import_module

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from sb3_bcvlr.envs import make_metaworld, metaworld_env
from sb3_bcvlr.envs.registration import METAWORLD_TASKS

# Found, not imported: MuJoCo's back end is chosen when the first environment is made.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")

REST = np.zeros(4, np.float32)


@pytest.fixture(scope="module")
def reach():
    env = metaworld_env("reach", seed=0)
    yield env
    env.close()


def goal(env):
    """Where the goal of ``env`` is and where its marker is drawn, each (3,)."""
    return env.unwrapped.sawyer._target_pos, env.unwrapped.data.site("goal").xpos


def play(env, n_steps):
    """The infos of ``n_steps`` of the scripted policy of reach, or fewer if the episode ends, and whether it did."""
    from metaworld.policies import ENV_POLICY_MAP

    policy, infos, done = ENV_POLICY_MAP["reach-v3"](), [env.reset(seed=0)[1]], False
    while not done and len(infos) <= n_steps:
        *_, terminated, truncated, info = env.step(policy.get_action(infos[-1]["state"]).clip(-1, 1).astype(np.float32))
        infos.append(info)
        done = terminated or truncated
    return infos[1:], done


def test_the_environment_passes_stable_baselines3s_checker(reach):
    check_env(reach, warn=False)


def test_spaces(reach):
    assert reach.observation_space == gym.spaces.Box(0, 255, (9, 64, 64), np.uint8)
    assert reach.action_space == gym.spaces.Box(-1, 1, (4,), np.float32)


def test_each_episode_has_its_goal_and_the_seed_fixes_them(reach):
    reach.reset(seed=7)
    goals = [goal(reach)[0], (reach.reset(), goal(reach)[0])[1]]
    other = metaworld_env("reach", seed=7, image_size=8)
    for expected in goals:
        other.reset()
        assert (goal(other)[0] == expected).all()
    assert (goals[0] != goals[1]).any()


def test_the_first_picture_shows_the_episodes_own_scene():
    """Meta-World moves objects and marker in the model: the picture is right only once the simulator has caught up."""
    env = metaworld_env("window-close", seed=0)
    env.reset()
    env.reset()
    picture = env.render()
    import_module("mujoco").mj_forward(env.unwrapped.model, env.unwrapped.data)
    assert (env.render() == picture).all()
    env.close()


def test_the_state_shows_the_goal(reach):
    _, info = reach.reset(seed=1)
    assert info["state"].shape == (39,)
    assert (info["state"][-3:] == goal(reach)[0]).all()


def test_the_scripted_policy_solves_it_and_the_episode_may_end_there():
    infos, done = play(metaworld_env("reach", n_stack=1, image_size=8, terminate_on_success=True), 100)
    assert done and len(infos) < 100
    assert infos[-1]["success"] and not any(info["success"] for info in infos[:-1])


def test_success_is_remembered_until_the_next_episode(reach, monkeypatch):
    reach.reset(seed=0)
    solved = iter([0.0, 1.0, 0.0, 0.0])
    monkeypatch.setattr(reach.unwrapped.sawyer, "evaluate_state", lambda *_: (1.0, {"success": next(solved)}))
    first, second = reach.step(REST), reach.step(REST)
    assert first[1] == second[1] == 2.0
    assert (first[4]["success"], first[4]["is_success"]) == (True, True)
    assert (second[4]["success"], second[4]["is_success"]) == (False, True)
    monkeypatch.undo()
    reach.reset()
    assert not reach.step(REST)[4]["is_success"]


def test_the_time_limit_counts_simulated_steps():
    env = metaworld_env("reach", image_size=8, max_episode_steps=5, action_repeat=2)
    env.reset()
    assert [env.step(REST)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("camera", ["close+topview", ["close", "topview"]])
def test_two_cameras_stand_side_by_side(camera):
    both = metaworld_env("reach", seed=0, n_stack=1, image_size=16, camera=camera)
    views = [metaworld_env("reach", seed=0, n_stack=1, image_size=16, camera=name) for name in ("close", "topview")]
    for env in (both, *views):
        env.reset(seed=0)
    step = both.step(np.ones(4, np.float32))[0], [env.step(np.ones(4, np.float32))[0] for env in views]
    assert both.observation_space.shape == step[0].shape == (3, 16, 32)
    assert (step[0] == np.concatenate(step[1], axis=2)).all()
    assert both.get_wrapper_attr("rendering_settings")["camera"] == "close+topview"


@pytest.mark.parametrize(("own", "base"), [("close", "corner2"), ("side", "corner3")])
def test_our_own_views_take_the_place_of_one_of_meta_worlds(own, base):
    with pytest.raises(ValueError, match=f'"{own}" is {base}, moved'):
        metaworld_env("reach", camera=f"{own}+{base}")


def test_the_side_view_shows_y_to_the_right_and_not_x():
    env = metaworld_env("reach", seed=0, camera="side")
    env.reset()
    model, columns = env.unwrapped.model, []
    for x, y in ((0, 0.75), (0, 0.9), (0.1, 0.9)):
        model.site_pos[model.site("goal").id] = (x, y, 0.2)
        import_module("mujoco").mj_forward(model, env.unwrapped.data)
        _, bright_red = np.nonzero(env.render().astype(int) @ (1, -1, -1) > 200)
        columns.append(bright_red.mean())
    assert columns[1] - columns[0] > 5
    assert abs(columns[2] - columns[1]) < 1.5
    env.close()


@pytest.mark.parametrize("camera", ["close", "corner", "side"])
def test_the_robot_stands_on_its_foot(camera):
    """The red arm is above the black foot of the robot, whichever way the camera hangs."""
    env = metaworld_env("drawer-open", seed=0, camera=camera)
    env.reset()
    picture = env.render().astype(int)
    red, _ = np.nonzero(picture @ (1, -1, -1) > 60)
    wood, _ = np.nonzero((abs(picture - (120, 90, 75)) < 25).all(-1))
    assert red.mean() < wood.mean()
    assert env.get_wrapper_attr("rendering_settings")["camera"] == camera
    env.close()


def test_a_vector_counts_its_episodes():
    env = make_metaworld("drawer-open-v3", 2, seed=0, image_size=8, max_episode_steps=4)
    observations = env.reset()
    assert (observations[0] != observations[1]).any()
    env.step(np.zeros((2, 4), np.float32))
    *_, dones, infos = env.step(np.zeros((2, 4), np.float32))
    env.close()
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [2, 2]


def test_tasks_are_all_of_meta_world():
    assert set(METAWORLD_TASKS) == set(import_module("metaworld").ALL_V3_ENVIRONMENTS)


@pytest.mark.parametrize("make", [metaworld_env, make_metaworld])
def test_a_wrong_name_is_told_the_right_one(make):
    with pytest.raises(ValueError, match="no task 'drawer-opn-v3'; did you mean drawer-open-v3"):
        make("drawer-opn")


def test_the_only_way_to_render_is_told():
    with pytest.raises(ValueError, match="render_mode is 'human', expected 'rgb_array'"):
        metaworld_env("reach", render_mode="human")


def test_its_spec_makes_the_environment_again():
    env = gym.make("metaworld/reach-v3", image_size=16)
    again = gym.make(env.spec)
    assert np.array_equal(env.reset(seed=4)[0], again.reset(seed=4)[0])


def test_an_episode_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="max_episode_steps is 0, expected a whole number from 1 on"):
        metaworld_env("reach", max_episode_steps=0)


def test_meta_world_may_be_imported_first_and_environments_left_open():
    """MuJoCo has then chosen a back end of its own. Nothing is printed at exit, and PyTorch loads no Triton that crashes."""
    if importlib.util.find_spec("dm_control") is None:
        pytest.skip("dm_control is not installed")
    code = """if True:
        import metaworld
        from sb3_bcvlr.envs import make_dmcontrol, make_metaworld
        envs = [make_dmcontrol("reacher_easy", image_size=8), make_metaworld("reach", image_size=8)]
        assert all(env.reset().any() for env in envs)
        import torch
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_episode_does_not_show_what_happened_in_the_one_before():
    env = metaworld_env("drawer-open", n_stack=1, seed=0)
    first, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        env.step(rng.uniform(-1, 1, 4).astype(np.float32))
    assert (env.reset(seed=3)[0] == first).all()
    env.close()


def test_a_success_ends_no_episode_unless_asked(monkeypatch):
    env = metaworld_env("reach", n_stack=1, image_size=8, seed=0)
    env.reset()
    monkeypatch.setattr(env.unwrapped.sawyer, "evaluate_state", lambda *_: (1.0, {"success": 1.0}))
    *_, terminated, truncated, info = env.step(REST)
    assert info["success"] and not terminated and not truncated
    env.close()


def test_a_camera_that_was_moved_is_refused_by_its_number_too():
    number = metaworld_env("reach").unwrapped.model.camera("corner2").id
    with pytest.raises(ValueError, match='"close" is corner2, moved'):
        metaworld_env("reach", camera=f"close+{number}")


def test_the_seed_fixes_the_goals_of_a_vector():
    envs = [make_metaworld("reach", 2, seed=seed, image_size=16, n_stack=1) for seed in (3, 3, 5)]
    first, again, other = (env.reset() for env in envs)
    assert (first == again).all() and (first != other).any()
    for env in envs:
        env.close()


def test_a_vector_stacks_as_it_is_told():
    env = make_metaworld("reach", image_size=8, n_stack=2)
    assert env.observation_space.shape == (6, 8, 8)
    env.close()


def test_a_vector_repeats_actions_as_it_is_told():
    env = make_metaworld("reach", image_size=8, n_stack=1, action_repeat=5, max_episode_steps=10)
    env.reset()
    assert [bool(env.step(REST[None])[2][0]) for _ in range(2)] == [False, True]
    env.close()
