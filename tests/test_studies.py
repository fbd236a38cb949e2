"""The scripts of the paper's studies give the method what they say."""

import argparse
import inspect
import shutil

import numpy as np
import pytest
import studies
from toys import ActionPictureEnv, fake_videos, moved, snapshot, tiny_arguments

from sb3_bcvlr import BCVLR, VideoDataset, hyperparams
from sb3_bcvlr.bcvlr import BCVLRPolicy


@pytest.fixture
def chunk(tmp_path):
    """Two episodes of 4 and 3 frames, each filled with its number; the action is the number too."""
    numbers = np.array([0, 1, 2, 3, 10, 11, 12], np.uint8)
    frames = np.broadcast_to(numbers[:, None, None, None], (7, 2, 2, 3))
    done = np.isin(numbers, (3, 12))
    np.savez(tmp_path / "0.npz", obs=frames, ta=numbers[:, None].astype(np.float32), done=done)
    return tmp_path


@pytest.mark.parametrize(
    ("n_transitions", "expected"),
    [(100, [[0, 1, 2, 3], [10, 11, 12]]), (4, [[0, 1, 2, 3], [10, 11]]), (2, [[0, 1, 2]])],
)
def test_labelled_episodes_end_when_there_are_enough(chunk, n_transitions, expected):
    episodes = list(studies.labelled_episodes(chunk, n_transitions, n_stack=1))
    assert [observations[:, 0, 0, 0].tolist() for observations, _ in episodes] == expected
    assert [actions[:, 0].tolist() for _, actions in episodes] == [numbers[:-1] for numbers in expected]


def test_labelled_episodes_are_stacked_as_videos_are(chunk):
    (observations, _), _ = studies.labelled_episodes(chunk, 100, n_stack=2)
    videos = VideoDataset(chunk, n_stack=2, n_history=1)
    assert np.array_equal(observations[:-1], videos.observations(np.arange(3)).numpy())


@pytest.mark.parametrize("change", studies.ABLATIONS.values())
def test_every_ablation_is_an_argument(change):
    inspect.signature(BCVLR).bind("env", **change)
    inspect.signature(BCVLRPolicy).bind("observation_space", "action_space", **change.get("policy_kwargs", {}))


def test_leaving_the_quantizer_out_leaves_z_its_size():
    without = hyperparams.merged(tiny_arguments(), studies.ABLATIONS["no quantizer"])
    models = [BCVLR(ActionPictureEnv(), fake_videos(), **arguments) for arguments in (tiny_arguments(), without)]
    sizes = [model.policy.idm.quantizer.latent_dim for model in models]
    assert sizes[0] == sizes[1] and models[1].policy.idm.quantizer.bypass


def arguments(tmp_path, **overrides) -> argparse.Namespace:
    folder = tmp_path / "videos"
    folder.mkdir(exist_ok=True)
    for number, frames in enumerate(fake_videos(8)):
        np.save(folder / f"{number}.npy", frames.repeat(2, 1).repeat(2, 2))
    given = dict(tasks=["foraging"], videos=[folder], n_envs=2, steps=20, out=tmp_path / "study.csv", pretrain_on=1)
    return argparse.Namespace(**{**given, **overrides})


def test_each_ablation_learns(tmp_path):
    variants = {name: model for name, _, model in studies.ablations(arguments(tmp_path), 0, tiny_arguments())}
    assert list(variants) == list(studies.ABLATIONS)
    assert all(model.num_timesteps == 20 for model in variants.values())
    for name, change in studies.ABLATIONS.items():
        for key, value in change.items():
            is_so = getattr(variants[name], key)
            assert is_so == frozenset(value) if key == "tune_encoder" else key == "policy_kwargs" or is_so == value
    bypassed = [name for name, model in variants.items() if model.policy.idm.quantizer.bypass]
    assert bypassed == ["no quantizer"]


def test_the_amount_of_video_is_bounded_by_whole_episodes(tmp_path):
    variants = studies.video_amount(arguments(tmp_path, amounts=[16, 32, 1000]), 0, tiny_arguments())
    assert [model.videos.n_frames for _, _, model in variants] == [16, 32, 64]


def test_an_amount_below_one_episode_is_told_before_anything_learns(tmp_path, capsys):
    with pytest.raises(SystemExit):
        next(studies.video_amount(arguments(tmp_path, amounts=[32, 3]), 0, tiny_arguments()))
    assert "--amounts 3 is less than an episode: 8 of them hold 64 frames" in capsys.readouterr().err


def test_tasks_that_were_not_pretrained_on_learn_too(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    args.tasks, args.videos = args.tasks * 2, [args.videos[0], shutil.copytree(args.videos[0], tmp_path / "others")]
    load, pretrain, folders, pretrained = studies.load_videos, BCVLR.pretrain, [], []
    monkeypatch.setattr(studies, "load_videos", lambda videos, *rest: folders.append(videos) or load(videos, *rest))
    monkeypatch.setattr(BCVLR, "pretrain", lambda self, **kwargs: pretrained.append(self) or pretrain(self, **kwargs))
    variants = list(studies.multi_task(args, 0, tiny_arguments()))
    assert [name for name, _, _ in variants] == ["seen", "unseen"]
    assert all(model.num_timesteps == 20 for _, _, model in variants)
    each, pretraining = [args.videos[:1], args.videos[1:]], [args.videos[:1]]
    assert folders == each + pretraining  # all are read first; the first pre-trains, and it alone
    assert len(pretrained) == 1


def test_without_interaction_all_is_learned_from_labelled_transitions(tmp_path, monkeypatch):
    given = {"labelled": tmp_path / "labelled", "transitions": 20, "align_updates": 10, "imitation_updates": 30}
    args = arguments(tmp_path, **given)
    args.labelled.mkdir()
    for number, frames in enumerate(fake_videos(8)):
        frames = frames.repeat(2, 1).repeat(2, 2)
        np.savez(args.labelled / f"{number}.npz", obs=frames, ta=np.zeros(8, int), done=np.arange(8) == 7)
    asked, align = [], BCVLR.align
    monkeypatch.setattr(
        BCVLR, "align", lambda self, episodes, *n, **rest: asked.append(n) or align(self, episodes, *n, **rest)
    )
    [(name, _, model)] = studies.offline(args, 0, tiny_arguments())
    assert name == "20 transitions" and asked == [(10, 30)] and model.num_timesteps == 0
    before = BCVLR(studies.make_env("foraging", 2, 0), None, **tiny_arguments())
    assert moved(snapshot(before), snapshot(model)) >= {"idm", "action_decoder", "latent_policy"}
