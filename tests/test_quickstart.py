"""What `train.py` and `quickstart.py` make of a user's videos, with and without the returns beside them."""

import csv
import json
from pathlib import Path

import pytest
import quickstart
import torch as th
from toys import darkening_video, tiny_arguments

from sb3_bcvlr.common.files import read_csv
from sb3_bcvlr.common.video_io import write_video


@pytest.fixture
def videos(tmp_path):
    """Two episodes, larger than the environment's pictures."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(2):
        write_video(folder / f"{number}.mkv", darkening_video(12, 48, 48))
    return folder


def run(videos: Path, out: Path, **changes) -> dict:
    arguments = tiny_arguments(**changes)
    del arguments["seed"]
    return quickstart.run(quickstart.make_foraging, videos, out, 8, 2, n_eval_episodes=2, seed=0, **arguments)


def test_videos_of_another_size_and_without_returns_are_learned_from(videos, tmp_path, capsys):
    summary = run(videos, tmp_path / "out")
    assert summary["video_return"] is None
    assert "mean return unknown" in (shown := capsys.readouterr().out) and "the videos" not in shown
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["video_return"] is None
    assert {"model.zip", "learning_curve.png", "progress.csv", "side_by_side.mp4"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }


def test_sampled_and_greedy_actions_are_judged_apart(videos, tmp_path, monkeypatch):
    evaluate, judged = quickstart.evaluate, []

    def note(policy, env, n_episodes, deterministic=False):
        judged.append((type(policy).__name__, deterministic))
        return {**evaluate(policy, env, n_episodes, deterministic), "return": float(len(judged))}

    monkeypatch.setattr(quickstart, "evaluate", note)
    summary = run(videos, tmp_path / "out")
    assert judged == [("RandomPolicy", False), ("BCVLR", False), ("BCVLR", True)]
    assert (summary["policy_return"], summary["greedy_return"]) == (2, 3)


def test_one_episode_has_no_standard_error(videos, tmp_path):
    env = quickstart.make_foraging(1, 0)
    assert quickstart.evaluate(quickstart.RandomPolicy(env), env, 1)["stderr"] is None
    assert quickstart.evaluate(quickstart.RandomPolicy(env), env, 3)["stderr"] > 0


def test_no_seed_is_judged_on_the_levels_of_another_or_of_training():
    of_training = {seed + i for seed in range(100) for i in range(64)}
    judged = [{quickstart.eval_seed(seed) + i for i in range(64)} for seed in range(100)]
    assert len(of_training.union(*judged)) == len(of_training) + 100 * 64


def test_the_return_of_the_videos_is_read_beside_them(videos):
    with open(videos / "episodes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "length", "return"), ("0.mkv", 12, 3.0), ("1.mkv", 12, 5.0)])
    assert quickstart.read_video_return(videos) == 4.0


@pytest.mark.parametrize("column", ["max_steps", "stop_after_success"])
def test_clips_have_no_return_to_compare_with(videos, column):
    with open(videos / "episodes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "return", column), ("0.mkv", 3.0, 10), ("1.mkv", 5.0, 10)])
    assert quickstart.read_video_return(videos) is None


@pytest.mark.parametrize(
    "rows", [[], [("file", "return")], [("file", "length"), ("0.mkv", 12)], [("file", "return"), ("0.mkv", "")]], ids=str
)
def test_a_table_of_another_program_tells_no_return(videos, rows):
    with open(videos / "episodes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert quickstart.read_video_return(videos) is None


def test_what_the_model_logs_is_kept(videos, tmp_path):
    run(videos, tmp_path / "out")
    assert any(row["train/action_loss"] for row in read_csv(tmp_path / "out" / "progress.csv"))


@pytest.mark.parametrize("has_tensorboard", [False, True])
def test_a_log_that_goes_to_tensorboard_is_not_said_to_be_in_the_folder(videos, tmp_path, capsys, has_tensorboard):
    run(videos, tmp_path / "out", **{"tensorboard_log": str(tmp_path / "runs")} if has_tensorboard else {})
    is_there = (tmp_path / "out" / "progress.csv").exists()
    assert ("progress.csv" in capsys.readouterr().out) == is_there == (not has_tensorboard)


def test_the_summary_tells_what_memory_of_a_gpu_was_taken(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "peak_gpu_memory", lambda device: {"peak_gpu_gib": 1.5})
    run(videos, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["peak_gpu_gib"] == 1.5


def test_memory_of_a_gpu_is_told_in_gib(monkeypatch):
    monkeypatch.setattr(th.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    monkeypatch.setattr(th.cuda, "max_memory_reserved", lambda device: 2**31)
    expected = {"peak_gpu_gib": 1.5, "peak_gpu_reserved_gib": 2.0}
    assert quickstart.peak_gpu_memory(th.device("cuda", 0)) == expected
    assert quickstart.peak_gpu_memory(th.device("cpu")) == {}
