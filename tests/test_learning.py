"""What takes minutes: that the README's first command learns. Run by `make test-learning` after `make quickstart`."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_bcvlr import BCVLR

OUT = Path(__file__).parents[1] / "outputs" / "quickstart"

pytestmark = pytest.mark.expensive


@pytest.fixture(scope="module")
def summary():
    assert (OUT / "summary.json").exists(), "run `make quickstart` first"
    return json.loads((OUT / "summary.json").read_text())


def test_the_quickstart_reaches_85_percent_of_the_videos_return_within_100k_steps(summary):
    assert summary["policy_return"] >= 0.85 * summary["video_return"]
    assert summary["random_return"] < 0.2 * summary["video_return"]
    assert summary["env_steps"] <= 100_000


def test_the_saved_model_plays_as_well_as_the_summary_says(summary):
    model = BCVLR.load(OUT / "model.zip")
    env = make_vec_env("sb3_bcvlr/Foraging-v0", n_envs=64, seed=12_345)
    mean_return, _ = evaluate_policy(model, env, n_eval_episodes=128, deterministic=False)
    assert mean_return > 0.75 * summary["video_return"]  # fresh levels: four standard errors below the bar


def test_the_pictures_are_there():
    with av.open(str(OUT / "side_by_side.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) > 100
    assert np.std(frames[-1].astype(float) - frames[0]) > 1  # it moves
    assert (OUT / "learning_curve.png").stat().st_size > 10_000
