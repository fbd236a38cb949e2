"""The ladder's parts do what its rungs are said to be, and a run of it writes what it promises."""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import SubprocVecEnv
from toys import TINY_NETWORKS, TINY_STEPS, equal, fake_videos, moved, snapshot, tiny_model

from sb3_bcvlr import BCVLR, VideoDataset
from sb3_bcvlr.envs import ForagingEnv

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import ladder


def climber_of(model: BCVLR) -> ladder.Ladder:
    """On a ladder whose videos, all of action 0, are the held-out ones too."""
    held_out = VideoDataset(fake_videos(), n_history=2, seed=0)
    labels = th.zeros(len(held_out), 1, dtype=th.int64)
    return ladder.Ladder(model.pretrain(), labels, held_out, labels, np.arange(3))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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


def test_cloning_true_actions_moves_the_latent_policy_that_acts():
    climber = climber_of(tiny_model(policy_tau=0.5))
    before = [parameter.clone() for parameter in climber.policy.latent_policy_average.parameters()]
    climber.clone_actions(climber.actions, 2)
    after = climber.policy.latent_policy_average.parameters()
    assert not any(th.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("train_idm", "learning"), [(True, {"action_decoder", "encoder", "idm"}), (False, {"action_decoder"})]
)
def test_true_pairs_teach_the_networks_that_the_method_teaches(train_idm, learning):
    climber = climber_of(tiny_model(tune_encoder=["online"], world_model_coef=0.0))
    before = snapshot(climber.model)
    climber.align(2, train_idm)
    assert moved(before, snapshot(climber.model)) == learning


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
            raise InterruptedError("both environments have been asked for")

    monkeypatch.setitem(ladder.MAKERS, "foraging", make)
    arguments = f"foraging/foraging --labelled {labelled} --held-out {labelled} --out {tmp_path}".split()
    arguments += ["--env", '{"episode_length": 5}', "--eval-env", '{"episode_length": 9}']
    monkeypatch.setattr(sys, "argv", ["ladder.py", *arguments])
    with pytest.raises(InterruptedError):
        ladder.main()
    assert lengths == [5, 9]


def test_a_run_writes_a_row_for_each_rung_and_what_it_saw_along_the_way(labelled, tmp_path, monkeypatch):
    hyperparameters = {**TINY_STEPS, "learning_starts": 10, "policy_kwargs": TINY_NETWORKS}
    arguments = f"foraging/foraging --labelled {labelled} --held-out {labelled} --out {tmp_path} --rungs 0 1 2 3 4 5"
    arguments += " --updates 6 --align-updates 3 --random-steps 12 --steps 20 --n-envs 2 --eval-episodes 2 --eval-every 10"
    monkeypatch.setattr(sys, "argv", ["ladder.py", *arguments.split(), "--set", json.dumps(hyperparameters)])
    ladder.main()
    assert [row["rung"] for row in rows(tmp_path / "foraging.csv")] == list("012345")
    assert all(np.isfinite(float(row["return"])) for row in rows(tmp_path / "foraging.csv"))
    assert [row["updates"] for row in rows(tmp_path / "foraging.csv")] == list("666663")  # the first rollout ends too early
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [10, 20]
