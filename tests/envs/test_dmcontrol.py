"""DeepMind Control as pixels: what is seen, what an action does, and which tasks there are."""

import importlib.util
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_bcvlr.envs import dmcontrol_env, make_dmcontrol
from sb3_bcvlr.envs.registration import DMCONTROL_TASKS
from sb3_bcvlr.envs.rendering import list_cameras

# Found, not imported: MuJoCo's back end is chosen when the first environment is made.
missing = [name for name in ("dm_control", "shimmy") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")

REST = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def reacher():
    env = dmcontrol_env("reacher_easy", seed=0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def jaco():
    env = dmcontrol_env("jaco_reach_bottom_left", seed=0, n_stack=1)
    env.reset()
    yield env
    env.close()


def test_the_environment_passes_stable_baselines3s_checker(reacher):
    check_env(reacher, warn=False)


def test_a_model_is_made_after_its_environment():
    """Where Triton is installed, PyTorch loads it with the first optimizer, which crashed once OSMesa was loaded."""
    code = """if True:
        import torch
        from sb3_bcvlr.envs import make_dmcontrol
        make_dmcontrol("reacher_easy", n_envs=1).reset()
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    """
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_spaces(reacher):
    assert reacher.observation_space == gym.spaces.Box(0, 255, (9, 64, 64), np.uint8)
    assert reacher.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)


def test_an_episode_begins_with_its_first_picture_repeated(reacher):
    observation, _ = reacher.reset(seed=0)
    frames = observation.reshape(3, 3, 64, 64)
    assert (frames == frames[0]).all()
    assert frames.std() > 3


def test_the_newest_picture_is_the_last(reacher):
    before, _ = reacher.reset(seed=0)
    after, *_ = reacher.step(np.ones(2, np.float32))
    assert (after[:6] == before[3:]).all()
    assert (after[6:] == reacher.render().transpose(2, 0, 1)).all()
    assert (after[6:] != before[6:]).any()


def test_the_seed_fixes_the_episodes():
    first, second = dmcontrol_env("reacher_easy", seed=3), dmcontrol_env("reacher_easy")
    starts = [first.reset()[0], first.reset()[0]]
    assert (second.reset(seed=3)[0] == starts[0]).all()
    assert (second.reset()[0] == starts[1]).all()
    assert (starts[0] != starts[1]).any()


def test_rewards_of_repeated_actions_are_summed():
    push, returns = np.ones(1, np.float32), {}
    for action_repeat in (1, 3):
        env = dmcontrol_env("cartpole_balance", image_size=1, n_stack=1, action_repeat=action_repeat)
        env.reset(seed=0)
        returns[action_repeat] = sum(env.step(push)[1] for _ in range(6 // action_repeat))
    assert returns[3] == pytest.approx(returns[1])
    assert 3 < returns[3] < 6


def test_an_episode_ends_within_a_repeated_action():
    env = dmcontrol_env("reacher_easy", image_size=1, n_stack=1, action_repeat=300)
    env.reset(seed=0)
    ends = [env.step(REST)[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]
    assert env.unwrapped.physics.data.time == pytest.approx(1000 * 0.02)


def test_skipped_steps_are_not_rendered(monkeypatch):
    env = dmcontrol_env("reacher_easy", image_size=8, action_repeat=4)
    env.reset()
    renderer, rendered = env.get_wrapper_attr("_renderer"), []
    monkeypatch.setattr(renderer, "render", lambda render=renderer.render: rendered.append(1) or render())
    env.step(REST)
    assert len(rendered) == 1


def test_pictures_are_those_of_dm_control():
    """Without the fast rendering, pixel for pixel."""
    env = dmcontrol_env("reacher_easy", fast_rendering=False)
    env.reset(seed=0)
    ours = env.render()
    assert (ours == env.unwrapped.physics.render(64, 64, camera_id=0)).all()
    env.close()


def test_the_terrain_of_a_new_episode_is_seen():
    env, other = (dmcontrol_env("quadruped_escape", seed=0, image_size=16) for _ in range(2))
    env.reset()
    other.unwrapped.reset()  # draws the first terrain and shows nothing
    assert (env.reset()[0] == other.reset()[0]).all()
    env.close()
    other.close()


def test_a_context_that_cannot_be_made_is_explained(monkeypatch):
    env = dmcontrol_env("reacher_easy")
    monkeypatch.setattr("mujoco.Renderer", lambda *_: 1 / 0)
    with pytest.raises(ImportError, match=r"cannot render with MUJOCO_GL='\w*' \(ZeroDivisionError.*doctor"):
        env.reset()


def test_the_settings_of_the_pictures_are_told(reacher):
    settings = reacher.get_wrapper_attr("rendering_settings")
    assert settings["backend"] in ("osmesa", "egl", "glfw")
    assert {key: settings[key] for key in ("camera", "image_size", "fast_rendering")} == {
        "camera": 0,
        "image_size": 64,
        "fast_rendering": True,
    }


def test_running_backward_earns_up_to_one():
    env = dmcontrol_env("cheetah_run_backward", image_size=1, n_stack=1)
    env.reset(seed=0)
    task, physics = env.unwrapped.task, env.unwrapped.physics
    rewards = []
    physics.data.qvel[:] = 0
    for speed in (5.0, 0.0, -5.0, -10.0, -20.0):
        physics.data.qvel[0] = speed
        physics.forward()
        rewards.append(task.get_reward(physics))
    assert rewards == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


def test_jaco_reaches_for_a_brick_in_the_corner(jaco):
    physics = jaco.unwrapped.physics
    np.testing.assert_allclose(physics.named.data.xpos["duplo2x4/"][:2], (-0.09, -0.09), atol=1e-3)
    red = (jaco.render().astype(int) @ (1, -1, -1)) > 100
    rows, columns = np.nonzero(red)
    assert rows.mean() > 32 and columns.mean() < 32  # bottom left, as seen from the camera


def test_jacos_actions_are_scaled_to_one(jaco):
    assert jaco.action_space == gym.spaces.Box(-1, 1, (9,), np.float32)
    jaco.step(np.ones(9, np.float32))
    np.testing.assert_allclose(jaco.unwrapped.physics.data.ctrl, jaco.unwrapped.action_space.high, rtol=1e-6)


def test_jaco_episodes_follow_the_seed(jaco):
    first, _ = jaco.reset(seed=5)
    jaco.reset()
    again, _ = jaco.reset(seed=5)
    assert (first == again).all()


def test_jacos_first_episode_follows_the_seed_as_later_ones_do(jaco):
    later, _ = jaco.reset(seed=5)
    for arguments, options in (({}, {"seed": 5}), ({"seed": 5}, {})):
        env = dmcontrol_env("jaco_reach_bottom_left", n_stack=1, **arguments)
        first, _ = env.reset(**options)
        env.close()
        assert (first == later).all()


def test_every_environment_of_lqr_is_in_the_same_world():
    states = []
    for _ in range(2):
        env = dmcontrol_env("lqr_lqr_2_1", image_size=16, n_stack=1)
        env.reset(seed=3)
        *_, info = env.step(np.ones(1, np.float32))
        states.append(np.concatenate([np.ravel(part) for part in info["state"].values()]))
        env.close()
    np.testing.assert_array_equal(*states)


def test_tasks_are_the_suite_and_ours():
    from dm_control import suite

    from sb3_bcvlr.envs.dmcontrol_tasks import JACO_TARGETS

    ours = {"cheetah_run_backward", *(f"jaco_reach_{corner}" for corner in JACO_TARGETS)}
    assert set(DMCONTROL_TASKS) == {f"{domain}_{name}" for domain, name in suite.ALL_TASKS} | ours


@pytest.mark.parametrize(("vec_env_cls", "n_envs"), [(DummyVecEnv, 2), (SubprocVecEnv, 1)])
def test_a_vector_counts_its_episodes(vec_env_cls, n_envs):
    env = make_dmcontrol("reacher_easy", n_envs, seed=0, image_size=8, action_repeat=500, vec_env_cls=vec_env_cls)
    observations, actions = env.reset(), np.zeros((n_envs, 2), np.float32)
    assert observations.shape == (n_envs, 9, 8, 8)
    assert all((observations[0] != other).any() for other in observations[1:])
    env.step(actions)
    *_, dones, infos = env.step(actions)
    env.close()
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [2] * n_envs
    assert all(info["TimeLimit.truncated"] for info in infos)


@pytest.mark.parametrize("make", [dmcontrol_env, make_dmcontrol])
def test_a_wrong_name_is_told_the_right_one(make):
    with pytest.raises(ValueError, match="no task 'reacher_hrd'; did you mean reacher_hard"):
        make("reacher_hrd")
    with pytest.raises(ValueError, match="no task 'tetris'; choose one of: acrobot_swingup"):
        make("tetris")


@pytest.mark.parametrize(
    "wrong", [{"image_size": 0}, {"n_stack": 0}, {"action_repeat": 1.5}, {"image_size": "64"}, {"max_episode_steps": 0}]
)
def test_numbers_that_are_not_whole_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, expected a whole number from 1 on"):
        dmcontrol_env("reacher_easy", **wrong)


def test_no_environments_are_refused():
    with pytest.raises(ValueError, match="n_envs is 0, expected a whole number from 1 on"):
        make_dmcontrol("reacher_easy", n_envs=0)


def test_episodes_end_sooner_where_that_is_asked_for():
    env = dmcontrol_env("reacher_easy", image_size=8, max_episode_steps=5, action_repeat=2)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("camera", [0, np.int64(0), "0", [0]])
def test_cameras_have_numbers(camera):
    assert list_cameras(camera) == [0]


@pytest.mark.parametrize("camera", [[], 1.0])
def test_what_names_no_camera_is_refused(camera):
    with pytest.raises(ValueError, match="expected a number, a name or a list of some"):
        dmcontrol_env("reacher_easy", camera=camera)


def test_the_only_way_to_render_is_told():
    with pytest.raises(ValueError, match="render_mode is 'human', expected 'rgb_array'"):
        dmcontrol_env("reacher_easy", render_mode="human")


def test_its_spec_makes_the_environment_again():
    env = gym.make("dmcontrol/reacher_easy-v0", image_size=16)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert np.array_equal(env.reset(seed=4)[0], again.reset(seed=4)[0])


def test_a_wrong_camera_is_told_the_right_ones():
    with pytest.raises(ValueError, match="no camera 'moon'; choose a number below 2 or one of"):
        dmcontrol_env("reacher_easy", camera="moon")


def test_the_gymnasium_id_gives_the_same(reacher):
    env = gym.make("dmcontrol/reacher_easy-v0", render_mode="rgb_array")
    assert (env.reset(seed=4)[0] == reacher.reset(seed=4)[0]).all()
    env.close()


def test_cameras_are_named_or_numbered_and_joined_by_a_plus():
    env = dmcontrol_env("reacher_easy", image_size=8, n_stack=1, camera="0+1")
    assert env.get_wrapper_attr("rendering_settings")["camera"] == "0+1"
    assert env.reset(seed=0)[0].shape == (3, 8, 16)


@pytest.mark.parametrize("task", ["cheetah_run_backward", "jaco_reach_top_left"])
def test_the_seed_fixes_the_first_episode_of_our_own_tasks(task):
    envs = [dmcontrol_env(task, seed=3, image_size=32, n_stack=1) for _ in range(2)]
    assert (envs[0].reset()[0] == envs[1].reset()[0]).all()
    for env in envs:
        env.close()


def test_the_seed_fixes_the_episodes_of_a_vector():
    envs = [make_dmcontrol("reacher_easy", 2, seed=seed, image_size=16, n_stack=1) for seed in (3, 3, 5)]
    first, again, other = (env.reset() for env in envs)
    assert (first == again).all() and (first != other).any()
    for env in envs:
        env.close()


def test_a_vector_stacks_as_many_frames_as_asked():
    env = make_dmcontrol("reacher_easy", image_size=8, n_stack=2)
    assert env.observation_space.shape == (6, 8, 8)
    env.close()


@pytest.mark.parametrize("fast", [True, False])
def test_fast_rendering_leaves_out_shadows_reflections_and_antialiasing(fast):
    import mujoco

    env = dmcontrol_env("reacher_easy", image_size=8, fast_rendering=fast)
    env.reset()
    renderer = env.get_wrapper_attr("_renderer")
    flags = [renderer.scene.flags[flag] for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)]
    quality = renderer.model.vis.quality
    assert [bool(value) for value in (*flags, quality.shadowsize, quality.offsamples)] == [not fast] * 4
    env.close()


def test_actions_without_bounds_are_taken_as_they_are():
    env = dmcontrol_env("lqr_lqr_2_1", image_size=8)
    env.reset()
    env.step(np.full(1, 0.5, np.float32))
    assert env.unwrapped.physics.data.ctrl[0] == 0.5
    env.close()


@pytest.mark.parametrize(("action_repeat", "expected"), [(1, 50), (2, 25)])
def test_a_film_of_it_runs_at_the_speed_of_the_simulation(action_repeat, expected):
    assert dmcontrol_env("reacher_easy", action_repeat=action_repeat).metadata["render_fps"] == expected


def test_another_model_is_drawn_once_it_is_there():
    envs = [dmcontrol_env(task, image_size=16, n_stack=1) for task in ("reacher_easy", "cartpole_balance")]
    expected = [env.reset(seed=0)[0] for env in envs]
    pictures, others = (env.env.env.env.env for env in envs)
    pictures._simulation = others._simulation
    assert (pictures.render().transpose(2, 0, 1) == expected[1]).all()
    for env in envs:
        env.close()


def test_pictures_may_be_larger_than_the_models_own_buffer():
    env = dmcontrol_env("reacher_easy", image_size=700, n_stack=1)
    assert env.reset()[0].shape == (3, 700, 700)
    env.close()


def test_a_number_that_no_camera_has_is_told_the_right_ones():
    with pytest.raises(ValueError, match="no camera 7; choose a number below 2"):
        dmcontrol_env("reacher_easy", camera=7)


def test_lqr_begins_as_the_seed_says():
    states = []
    for seed in (3, 3, 4):
        env = dmcontrol_env("lqr_lqr_2_1", seed=seed, image_size=8, n_stack=1)
        states.append(np.concatenate([np.ravel(part) for part in env.reset()[1]["state"].values()]).tolist())
        env.close()
    assert states[0] == states[1] != states[2]


@pytest.mark.parametrize(
    ("corner", "signs"), [("top_left", (-1, 1)), ("top_right", (1, 1)), ("bottom_left", (-1, -1)), ("bottom_right", (1, -1))]
)
def test_jacos_targets_lie_in_their_corners(corner, signs):
    from sb3_bcvlr.envs.dmcontrol_tasks import JACO_TARGETS

    assert tuple(np.sign(JACO_TARGETS[corner])) == signs
