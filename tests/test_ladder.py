"""The ladder's parts do what its rungs are said to be, and a run of it writes what it promises."""

import argparse
import json
import sys

import ladder
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import SubprocVecEnv
from toys import TINY_NETWORKS, TINY_STEPS, equal, fake_videos, moved, read, snapshot, tiny_model

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.common.files import read_csv
from sb3_bcvlr.envs import ForagingEnv


def climber_of(model: BCVLR, groups: list[int] | None = None) -> ladder.Ladder:
    """On a ladder whose videos are the held-out ones too; a window's action is the one that its last picture shows."""
    held_out = VideoDataset(fake_videos(), n_history=2, seed=0)
    labels = th.as_tensor(read(held_out.windows(np.arange(len(held_out))).frames[:, -1])[:, :1])
    return ladder.Ladder(model.pretrain(), labels, held_out, labels, np.arange(3) if groups is None else np.array(groups))


def test_a_run_starts_where_the_first_one_had_been_pretrained(tmp_path):
    first, second = tiny_model(seed=0), tiny_model(seed=1)
    assert not equal(snapshot(first), snapshot(second))
    for model in (first, second):
        ladder.pretrain(model, tmp_path / "pretrained.zip")
        assert model.pretrained
    assert equal(snapshot(first), snapshot(second))


def test_processes_are_for_simulators_alone():
    arguments = {"processes": True, "env": {"action_repeat": 4}}
    with pytest.raises(SystemExit, match="procgen/maze is fast without"):
        ladder.environment_arguments(argparse.Namespace(task="procgen/maze", **arguments))
    assert ladder.environment_arguments(argparse.Namespace(task="dmcontrol/finger_spin", **arguments)) == {
        "action_repeat": 4,
        "vec_env_cls": SubprocVecEnv,
    }


def test_the_action_of_a_window_is_the_one_after_o_t(tmp_path):
    frames = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None], (7, 4, 4, 3))
    np.savez(tmp_path / "0.npz", obs=frames, ta=np.arange(10, 17), done=np.isin(np.arange(7), (3, 6)))
    videos = VideoDataset(tmp_path, n_history=2)
    o_t = videos.windows(np.arange(len(videos))).frames[:, -2, 0, 0, 0]
    assert ladder.read_actions(tmp_path, videos).flatten().tolist() == (o_t + 10).tolist() == [10, 11, 12, 14, 15]


@pytest.mark.parametrize("arrays", [{"obs": np.zeros((3, 4, 4, 3), np.uint8), "done": np.arange(3) == 2}, None])
def test_videos_without_actions_are_refused(tmp_path, arrays):
    np.save(tmp_path / "0.npy", np.zeros((3, 4, 4, 3), np.uint8)) if arrays is None else np.savez(tmp_path / "0.npz", **arrays)
    with pytest.raises(ValueError, match="holds no actions, expected"):
        ladder.read_actions(tmp_path, VideoDataset(tmp_path))


@pytest.mark.parametrize(("groups", "score"), [([0, 1, 2], 1 / 3), ([0, 1, 1], 2 / 3), ([0, 0, 0], 1.0)])
def test_actions_of_one_group_count_as_the_same(groups, score):
    climber = climber_of(tiny_model(), groups)
    climber.held_out_actions = th.tensor([[0], [1], [2]])
    assert climber._score(th.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])) == pytest.approx(score)


def test_labels_are_what_d_makes_of_each_windows_latent_action():
    climber = climber_of(tiny_model())
    videos, policy = climber.model.videos, climber.policy.eval()
    latent_actions = policy.latent_actions(policy.encode(videos.windows(np.arange(len(videos))).frames))
    assert th.equal(climber.read_labels(), policy.action_decoder(policy.standardized(latent_actions)).argmax(1, keepdim=True))


def test_a_world_model_of_true_actions_learns_from_its_start():
    climber = climber_of(tiny_model())
    before = snapshot(climber.model)
    errors = climber.true_dynamics(3)
    assert moved(before, snapshot(climber.model)) == {"world_model"}
    assert errors.keys() == {"true_error_to_copying", "true_error_to_shuffled"} and all(map(np.isfinite, errors.values()))


def test_actions_are_cloned_where_they_were_taken(monkeypatch):
    climber = climber_of(tiny_model(imitation_pad=0))
    videos = climber.model.videos
    episodes = th.as_tensor(read(videos.observations(np.arange(len(videos))))[:, 2:])  # a label that o_t shows
    seen, imitate, action_loss = [], climber.model._shifted_imitation, climber.policy.action_loss
    monkeypatch.setattr(climber.model, "_shifted_imitation", lambda frames: seen.append(read(frames)[:, 2]) or imitate(frames))
    monkeypatch.setattr(
        climber.policy, "action_loss", lambda z, labels: seen.append(labels[:, 0].numpy()) or action_loss(z, labels)
    )
    climber.clone_actions(episodes, 4)
    assert all(np.array_equal(*seen[i : i + 2]) for i in range(0, 8, 2)) and len({*np.concatenate(seen)}) == 3


def test_cloning_true_actions_moves_the_latent_policy_that_acts():
    climber = climber_of(tiny_model(policy_tau=0.5))
    before = [parameter.clone() for parameter in climber.policy.latent_policy_average.parameters()]
    climber.clone_actions(climber.actions, 2)
    after = climber.policy.latent_policy_average.parameters()
    assert not any(th.equal(*pair) for pair in zip(before, after, strict=True))


def test_d_learns_again_where_labels_are_cloned_after_an_alignment():
    climber = climber_of(tiny_model())
    climber.align(1, train_idm=True)
    before = snapshot(climber.model)
    climber.clone_actions(climber.actions, 1)
    assert moved(before, snapshot(climber.model)) == {"latent_policy", "action_decoder"}


@pytest.mark.parametrize(
    ("train_idm", "learning"), [(True, {"action_decoder", "encoder", "idm"}), (False, {"action_decoder"})]
)
def test_true_pairs_teach_the_networks_that_the_method_teaches(train_idm, learning):
    climber = climber_of(tiny_model(tune_encoder=["online"], world_model_coef=0.0))
    before = snapshot(climber.model)
    climber.align(2, train_idm)
    assert moved(before, snapshot(climber.model)) == learning


def test_a_rung_makes_random_steps_and_asks_neighbors_as_the_model_does():
    climber = climber_of(tiny_model(n_neighbors=3).learn(20))
    climber.clone_actions(climber.actions, 1)
    assert climber.policy.n_neighbors == 0 and climber.model._n_updates > 0  # d reads what pi says itself
    climber.restart()
    assert climber.policy.n_neighbors == 3 and climber.model._n_updates == 0


def test_a_rung_starts_as_the_first_one_did():
    climber, ends = climber_of(tiny_model()), []
    for _ in range(2):
        climber.restart()
        climber.model.set_random_seed(0)
        climber.align(3, train_idm=True)
        ends.append(snapshot(climber.model))
    assert equal(*ends)


@pytest.fixture
def labelled(tmp_path):
    """Two episodes of the foraging world with random actions, as LAPO's chunks."""
    env = ForagingEnv()
    env.action_space.seed(0)
    for episode in range(2):
        frames, actions = [env.reset(seed=episode)[0]], []
        for _ in range(8):
            actions.append(env.action_space.sample())
            frames.append(env.step(actions[-1])[0])
        done = np.arange(9) == 8
        (tmp_path / "labelled").mkdir(exist_ok=True)
        np.savez(tmp_path / "labelled" / f"{episode}.npz", obs=np.stack(frames), ta=np.array([*actions, 0]), done=done)
    return tmp_path / "labelled"


def test_it_may_be_judged_in_other_episodes_than_it_learns_in(labelled, tmp_path, monkeypatch):
    lengths = []

    def make(task, n_envs, seed, episode_length):
        lengths.append(episode_length)
        if len(lengths) == 2:
            raise NotImplementedError("both environments have been asked for")

    monkeypatch.setitem(ladder.MAKERS, "foraging", make)
    arguments = f"foraging/foraging --labelled {labelled} --held-out {labelled} --out {tmp_path}".split()
    arguments += ["--env", '{"episode_length": 5}', "--eval-env", '{"episode_length": 9}']
    monkeypatch.setattr(sys, "argv", ["ladder.py", *arguments])
    with pytest.raises(NotImplementedError):
        ladder.main()
    assert lengths == [5, 9]


def test_each_rung_does_what_it_is_said_to_do(labelled, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(ladder.Ladder, "align", lambda self, n, train_idm: done.append(f"align p and d: {train_idm}"))
    monkeypatch.setattr(ladder.Ladder, "read_labels", lambda self: "labels of p + d")
    monkeypatch.setattr(
        ladder.Ladder,
        "clone_actions",
        lambda self, labels, n: done.append("clone " + (labels if isinstance(labels, str) else "true actions")),
    )
    monkeypatch.setattr(ladder.Ladder, "clone_latent_actions", lambda self, n: done.append("clone z"))
    hyperparameters = {**TINY_STEPS, "policy_kwargs": TINY_NETWORKS}
    arguments = f"foraging/foraging --labelled {labelled} --held-out {labelled} --out {tmp_path} --rungs 1 2 3 4"
    arguments += " --n-envs 2 --eval-episodes 2"
    monkeypatch.setattr(sys, "argv", ["ladder.py", *arguments.split(), "--set", json.dumps(hyperparameters)])
    ladder.main()
    assert done == [
        *("clone true actions",),
        *("align p and d: True", "clone labels of p + d"),
        *("align p and d: True", "clone z"),
        *("align p and d: False", "clone z"),
    ]


def test_a_run_writes_a_row_for_each_rung_and_what_it_saw_along_the_way(labelled, tmp_path, monkeypatch):
    hyperparameters = {**TINY_STEPS, "learning_starts": 10, "policy_kwargs": TINY_NETWORKS}
    arguments = f"foraging/foraging --labelled {labelled} --held-out {labelled} --out {tmp_path} --rungs 0 1 2 3 4 5"
    arguments += " --updates 6 --align-updates 3 --random-steps 12 --steps 20 --n-envs 2 --eval-episodes 2 --eval-every 10"
    monkeypatch.setattr(sys, "argv", ["ladder.py", *arguments.split(), "--set", json.dumps(hyperparameters)])
    ladder.main()
    rows = read_csv(tmp_path / "foraging.csv")
    assert [row["rung"] for row in rows] == list("012345")
    assert all(np.isfinite(float(row["return"])) for row in rows)
    assert [row["updates"] for row in rows] == list("066663")  # the first rollout ends too early
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [10, 20]
