"""Frames are filled with their own number, so that windows can be read as numbers."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import ActionPictureEnv, read, tiny_model

from sb3_bcvlr.common import window_replay_buffer
from sb3_bcvlr.common.window_replay_buffer import WindowReplayBuffer

OBSERVATIONS = spaces.Box(0, 255, (1, 2, 2), np.uint8)
ACTIONS = spaces.Discrete(100)


def make_buffer(buffer_size: int = 20, n_envs: int = 1, **kwargs) -> WindowReplayBuffer:
    return WindowReplayBuffer(buffer_size, OBSERVATIONS, ACTIONS, device="cpu", n_envs=n_envs, **kwargs)


def frame(*numbers: int) -> np.ndarray:
    """(len(numbers), 1, 2, 2): one for each environment."""
    return np.array(numbers, np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)


def fill(buffer: WindowReplayBuffer, *episodes: list[int]) -> None:
    """One environment; the action that leads away from a frame is the frame's number + 50, the last frame is terminal."""
    for numbers in episodes:
        for now, then in pairwise(numbers):
            buffer.add(frame(now), frame(then), np.array([now + 50]), np.zeros(1), np.array([then == numbers[-1]]), [{}])


def windows(buffer: WindowReplayBuffer, n_samples: int = 500) -> dict[tuple[int, ...], int]:
    """All windows that are sampled, as numbers, and their actions."""
    samples = buffer.sample(n_samples)
    numbers = samples.frames[:, :, 0, 0, 0].tolist()
    return {tuple(window): action for window, (action,) in zip(numbers, samples.actions.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("n_history", "expected"),
    [
        (1, {(0, 1), (1, 2), (10, 11)}),
        (2, {(0, 0, 1), (0, 1, 2), (10, 10, 11)}),
        (3, {(0, 0, 0, 1), (0, 0, 1, 2), (10, 10, 10, 11)}),
    ],
)
def test_windows_never_cross_an_episode_end_and_repeat_its_first_frame(n_history, expected):
    buffer = make_buffer(n_history=n_history)
    fill(buffer, [0, 1, 2, 3], [10, 11, 12])  # the terminal frames 3 and 12 are not stored
    assert set(windows(buffer)) == expected


def test_the_action_is_the_one_that_led_to_the_last_frame():
    buffer = make_buffer()
    fill(buffer, [0, 1, 2, 3], [10, 11, 12])
    assert windows(buffer) == {(0, 0, 1): 50, (0, 1, 2): 51, (10, 10, 11): 60}


def test_shapes_and_types_of_a_sample():
    buffer = make_buffer(n_history=3)
    fill(buffer, list(range(9)))
    samples = buffer.sample(5)
    assert samples.frames.shape == (5, 4, 1, 2, 2)
    assert str(samples.frames.dtype) == "torch.uint8"
    assert samples.actions.shape == (5, 1)


@pytest.mark.parametrize(
    ("n_history", "expected"),
    [
        (1, {(3, 4), (4, 5), (5, 6), (6, 7)}),
        (2, {(3, 4, 5), (4, 5, 6), (5, 6, 7)}),
        (3, {(3, 4, 5, 6), (4, 5, 6, 7)}),
    ],
)
def test_a_wrapped_ring_gives_what_is_left_and_repeats_nothing_that_was_overwritten(n_history, expected):
    buffer = make_buffer(buffer_size=5, n_history=n_history)
    fill(buffer, list(range(9)))  # rows 0 to 7, of which 3 to 7 are left
    assert buffer.full
    assert set(windows(buffer)) == expected


@pytest.mark.parametrize("n_history", [1, 2, 3])
@pytest.mark.parametrize("cross_episodes", [False, True])
@pytest.mark.parametrize("n_added", range(1, 24))
def test_windows_equal_those_of_a_plain_list_at_any_fill(n_history, cross_episodes, n_added):
    buffer_size, length = 8, 5
    buffer = make_buffer(buffer_size=buffer_size, n_history=n_history, cross_episodes=cross_episodes)
    rows = []  # (episode, number) of each row ever added
    for number in range(n_added):
        done = number % length == length - 1
        buffer.add(frame(number), frame(99 if done else number + 1), np.array([number]), np.zeros(1), np.array([done]), [{}])
        rows.append((0 if cross_episodes else number // length, number))
    left = rows[-buffer_size:]
    expected = {}
    for i in range(len(left) - 1):
        if left[i][0] != left[i + 1][0]:
            continue
        past = [j if j >= 0 and rows[j][0] == left[i][0] else None for j in range(left[i][1] - n_history + 1, left[i][1] + 1)]
        start = min(j for j in past if j is not None)
        past = [start if j is None else j for j in past]
        if past[0] >= left[0][1]:  # nothing of it is overwritten
            expected[(*past, left[i + 1][1])] = left[i][1]
    # In a full ring nothing tells that its oldest rows may begin an episode: these windows may be left out.
    unknown = {window for window in expected if buffer.full and window[-2] < left[0][1] + n_history - 1}
    found = windows(buffer) if expected else {}
    assert {w: a for w, a in expected.items() if w not in unknown}.items() <= found.items() <= expected.items()


@pytest.mark.parametrize("n_steps", [6, 7, 13, 31])
def test_windows_never_mix_environments(n_steps):
    buffer = make_buffer(buffer_size=24, n_envs=3)
    for step in range(n_steps):
        numbers = [80 * env + step for env in range(3)]
        done = np.array([(step + env) % 5 == 4 for env in range(3)])  # ends at different times
        buffer.add(frame(*numbers), frame(*(n + 1 for n in numbers)), np.array(numbers) % 80, np.zeros(3), done, [{}] * 3)
    found = windows(buffer)
    assert {window[-1] // 80 for window in found} == {0, 1, 2}
    for window, action in found.items():
        env, step = divmod(window[-2], 80)
        assert action == step
        assert window[-1] == window[-2] + 1
        assert window[0] in (window[-2] - 1, window[-2])
        starts_here = step == 0 or (step - 1 + env) % 5 == 4
        assert (window[0] == window[1]) is starts_here
        assert (step + env) % 5 != 4


def test_each_environment_holds_its_share_of_the_steps():
    buffer = make_buffer(buffer_size=100, n_envs=4)
    assert buffer.frames.shape == (25, 4, 1, 2, 2)


@pytest.mark.parametrize("n_history", [1, 2, 3])
def test_a_ring_too_short_for_a_window_is_made_long_enough(n_history):
    buffer = make_buffer(buffer_size=4, n_envs=4, n_history=n_history)
    assert buffer.buffer_size == n_history + 1


def test_a_reset_from_outside_breaks_the_episode():
    buffer = make_buffer()
    for now, then in ((0, 1), (1, 2), (10, 11), (11, 12)):  # 2 was expected, 10 came, and no done
        buffer.add(frame(now), frame(then), np.array([now]), np.zeros(1), np.array([False]), [{}])
    assert set(windows(buffer)) == {(0, 0, 1), (10, 10, 11)}


def test_a_reset_from_outside_breaks_only_the_environment_that_was_reset():
    buffer = make_buffer(n_envs=2)
    for now, then in (((0, 100), (1, 101)), ((10, 101), (11, 102)), ((11, 102), (12, 103))):
        buffer.add(frame(*now), frame(*then), np.zeros(2, int), np.zeros(2), np.zeros(2, bool), [{}] * 2)
    assert set(windows(buffer)) == {(10, 10, 11), (100, 100, 101), (100, 101, 102)}


def test_a_reset_from_outside_breaks_the_episode_where_the_ring_begins_anew():
    buffer = make_buffer(buffer_size=3, n_history=1)
    for now, then in ((0, 1), (1, 2), (2, 3), (10, 11), (11, 12)):
        buffer.add(frame(now), frame(then), np.array([now]), np.zeros(1), np.array([False]), [{}])
    assert set(windows(buffer)) == {(10, 11)}


def test_the_callers_array_may_change_after_adding():
    buffer, next_frame = make_buffer(), frame(1)
    buffer.add(frame(0), next_frame, np.array([0]), np.zeros(1), np.array([False]), [{}])
    next_frame[:] = 7
    buffer.add(frame(1), frame(2), np.array([1]), np.zeros(1), np.array([False]), [{}])
    assert set(windows(buffer)) == {(0, 0, 1)}


@pytest.mark.parametrize("n_history", [1, 2])
def test_cross_episodes_cuts_windows_without_looking_at_ends(n_history):
    buffer = make_buffer(n_history=n_history, cross_episodes=True)
    fill(buffer, [0, 1, 2], [10, 11, 12])
    expected = {1: {(0, 1): 50, (1, 10): 51, (10, 11): 60}, 2: {(0, 0, 1): 50, (0, 1, 10): 51, (1, 10, 11): 60}}
    assert windows(buffer) == expected[n_history]


def test_frames_are_stored_once_and_rewards_not_at_all():
    buffer = make_buffer(buffer_size=1000)
    arrays = {name: value.nbytes for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    assert arrays["frames"] == 1000 * 4
    assert sum(arrays.values()) == 1000 * (4 + 8 + 1)  # frame, action (int64), end


def test_sampling_is_seeded():
    samples = []
    for seed in (3, 3, 4):
        buffer = make_buffer(seed=seed)
        fill(buffer, list(range(20)))
        samples.append(buffer.sample(50).actions.flatten().tolist())
    assert samples[0] == samples[1] != samples[2]


def test_the_global_generator_has_no_say():
    samples = []
    for seed in (1, 2):
        np.random.seed(seed)
        buffer = make_buffer(seed=0)
        fill(buffer, list(range(20)))
        samples.append(buffer.sample(50).actions.flatten().tolist())
    assert samples[0] == samples[1]


def test_windows_are_drawn_uniformly():
    buffer = make_buffer(seed=0)
    fill(buffer, list(range(6)))  # 4 windows
    counts = np.bincount(buffer.sample(4000).actions.flatten().numpy() - 50)
    assert counts.tolist() == pytest.approx([1000] * 4, abs=150)


@pytest.mark.parametrize(
    "episodes",
    [
        [],
        [[0, 1]],
        [[0, 1], [10, 11]],
    ],
)
def test_a_buffer_without_a_window_says_so(episodes):
    buffer = make_buffer()
    fill(buffer, *episodes)
    with pytest.raises(ValueError, match=f"holds {len(episodes)} steps of each environment and not one window of 3 frames"):
        buffer.sample(1)


def test_new_steps_are_found_after_sampling():
    buffer = make_buffer()
    fill(buffer, [0, 1, 2])
    assert set(windows(buffer)) == {(0, 0, 1)}
    fill(buffer, [10, 11, 12])
    assert set(windows(buffer)) == {(0, 0, 1), (10, 10, 11)}


def test_nothing_is_left_after_a_reset():
    fill(buffer := make_buffer(), [0, 1, 2, 3])
    buffer.sample(4)
    buffer.reset()
    with pytest.raises(ValueError, match="holds 0 steps"):
        buffer.sample(4)


def test_optimize_memory_usage_is_refused():
    with pytest.raises(ValueError, match="keeps every frame once"):
        make_buffer(optimize_memory_usage=True)


def test_a_buffer_survives_pickling(tmp_path):
    buffer = make_buffer(seed=0)
    fill(buffer, [0, 1, 2, 3], [10, 11, 12])
    save_to_pkl(tmp_path / "buffer.pkl", buffer)
    loaded = load_from_pkl(tmp_path / "buffer.pkl")
    assert windows(loaded) == windows(buffer)
    fill(loaded, [20, 21, 22])
    assert set(windows(loaded)) == {(0, 0, 1), (0, 1, 2), (10, 10, 11), (20, 20, 21)}


# ---- filled by SB3 from a world whose pictures show the action just taken ----


def check_windows(samples, n_history: int) -> None:
    actions, steps, episodes = np.moveaxis(read(samples.frames), -1, 0)  # (batch, n_history + 1) each
    assert (actions[:, -1] == samples.actions.numpy()[:, 0]).all()
    assert (episodes == episodes[:, :1]).all()
    expected = np.maximum(steps[:, -1:] - np.arange(n_history, -1, -1), 0)
    expected[:, -1] = steps[:, -1]
    assert (steps == expected).all()


@pytest.mark.parametrize("n_history", [1, 2, 3])
@pytest.mark.parametrize(("n_envs", "buffer_size"), [(1, 1000), (1, 17), (3, 1000), (3, 50)])
def test_labels_and_frames_keep_their_offset(n_history, n_envs, buffer_size):
    env = DummyVecEnv([lambda i=i: ActionPictureEnv(episode_length=4 + i) for i in range(n_envs)])
    model = tiny_model(env, n_history=n_history, buffer_size=buffer_size, learning_starts=1000, rollout_steps=30)
    model.pretrained = True
    model.learn(60)
    check_windows(model.replay_buffer.sample(300), n_history)


def test_learning_again_breaks_the_episode():
    model = tiny_model(ActionPictureEnv(episode_length=10), learning_starts=1000, rollout_steps=5)
    model.pretrained = True
    model.learn(5)
    model.learn(5)
    samples = model.replay_buffer.sample(200)
    check_windows(samples, 2)
    assert set(read(samples.frames)[:, -1, 1]) == {1, 2, 3, 4}


def test_another_environment_breaks_the_episode():
    model = tiny_model(ActionPictureEnv(episode_length=10), learning_starts=1000, rollout_steps=5)
    model.pretrained = True
    model.learn(5)
    model.set_env(ActionPictureEnv(episode_length=10))
    model.learn(5, reset_num_timesteps=False)
    check_windows(model.replay_buffer.sample(200), 2)


def make_stacking_buffer(n_stack: int = 3, **kwargs) -> WindowReplayBuffer:
    space = spaces.Box(0, 255, (n_stack, 2, 2), np.uint8)
    return WindowReplayBuffer(20, space, ACTIONS, device="cpu", n_history=1, n_stack=n_stack, **kwargs)


def stack(numbers: list[int], t: int, n_stack: int = 3) -> np.ndarray:
    """(1, n_stack, 2, 2): frames t-n_stack+1 to t, the first repeated before it."""
    return np.concatenate([frame(numbers[max(0, t - age)]) for age in reversed(range(n_stack))], axis=1)


def fill_stacks(buffer: WindowReplayBuffer, *episodes: list[int]) -> None:
    for numbers in episodes:
        last = len(numbers) - 1
        for t in range(last):
            buffer.add(stack(numbers, t), stack(numbers, t + 1), np.array([0]), np.zeros(1), np.array([t + 1 == last]), [{}])


def test_stacks_are_cut_as_the_environment_gave_them():
    buffer = make_stacking_buffer()
    fill_stacks(buffer, [1, 2, 3, 4, 5], [11, 12, 13])
    samples = buffer.sample(300).frames[..., 0, 0]
    assert {tuple(map(tuple, window)) for window in samples.tolist()} == {
        ((1, 1, 1), (1, 1, 2)),
        ((1, 1, 2), (1, 2, 3)),
        ((1, 2, 3), (2, 3, 4)),
        ((11, 11, 11), (11, 11, 12)),
    }


def test_stacks_whose_beginning_is_overwritten_are_never_drawn():
    buffer = make_stacking_buffer()
    numbers = list(range(1, 50))
    fill_stacks(buffer, numbers)
    oldest = len(numbers) - 1 - 20
    newest = {tuple(window[0]) for window in buffer.sample(500).frames[..., 0, 0].tolist()}
    assert newest == {(n - 2, n - 1, n) for n in range(numbers[oldest] + 2, numbers[-2])}


def test_an_episode_that_begins_with_black_frames_is_refused():
    first = np.concatenate((frame(0), frame(0), frame(7)), axis=1)
    with pytest.raises(ValueError, match=r"stacks of 3 frames.*stack_frames"):
        make_stacking_buffer().add(first, first, np.array([0]), np.zeros(1), np.array([True]), [{}])


def test_channels_that_are_no_stack_are_refused():
    first, second = np.repeat(frame(1), 3, axis=1), np.concatenate((frame(5), frame(1), frame(2)), axis=1)
    with pytest.raises(ValueError, match="but these are others"):
        make_stacking_buffer().add(first, second, np.array([0]), np.zeros(1), np.array([False]), [{}])


def test_frames_that_the_machine_has_no_memory_for_are_told_beforehand(monkeypatch):
    monkeypatch.setattr(window_replay_buffer, "machine_memory", lambda: 79)  # 20 frames of 4 bytes are 80
    with pytest.warns(UserWarning, match="20 frames of 2x2 pixels take 0.0 GiB: choose a smaller buffer_size"):
        make_buffer(20)


def test_frames_that_cannot_be_kept_at_all_are_an_error():
    space = spaces.Box(0, 255, (3, 480, 640), np.uint8)
    with pytest.warns(UserWarning, match="This machine has"), pytest.raises(ValueError, match="smaller buffer_size"):
        WindowReplayBuffer(10**9, space, ACTIONS, device="cpu")


def test_what_follows_an_end_may_be_any_stack():
    buffer = make_stacking_buffer()
    buffer.add(stack([1], 0), stack([8, 9], 1), np.array([0]), np.zeros(1), np.array([True]), [{}])
    assert buffer.size() == 1


def test_after_a_reset_the_first_stack_is_checked_again():
    buffer = make_stacking_buffer()
    fill_stacks(buffer, list(range(1, 50)))
    buffer.reset()
    first = np.concatenate((frame(0), frame(0), frame(7)), axis=1)
    with pytest.raises(ValueError, match="stacks of 3 frames"):
        buffer.add(first, first, np.array([0]), np.zeros(1), np.array([True]), [{}])


def test_a_pickled_buffer_leaves_its_copy_on_a_gpu_behind():
    buffer = tiny_model().learn(10).replay_buffer
    buffer._resident, buffer._n_fresh = th.zeros(1), 0
    copy = pickle.loads(pickle.dumps(buffer))
    assert copy._resident is None and copy._n_fresh == copy.buffer_size
