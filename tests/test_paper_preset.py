"""Every stage of the ``paper`` preset runs, with the published networks and next to no steps."""

import numpy as np
import pytest
from gymnasium import Env, spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import moved, snapshot

from sb3_bcvlr import BCVLR, VideoDataset, hyperparams

FEW = dict(
    buffer_size=100,
    learning_starts=7,
    rollout_steps=8,
    pretrain_encoder_steps=2,
    pretrain_dynamics_steps=2,
    pretrain_imitation_steps=1,
    gradient_steps=1,
    imitation_steps=1,
    batch_size=4,
    encoder_batch_size=4,
    dynamics_batch_size=4,
    imitation_batch_size=2,
)


class NoiseEnv(Env):
    """Looks like Procgen, and shows noise."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(15)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers(256, size=(64, 64, 3), dtype=np.uint8), {}

    def step(self, action):
        return self.np_random.integers(256, size=(64, 64, 3), dtype=np.uint8), 0.0, False, False, {}


@pytest.fixture(scope="module")
def logged():
    """What a run of a few steps logs, its model, and what that was before."""
    videos = np.random.default_rng(0).integers(256, size=(10, 64, 64, 3), dtype=np.uint8)
    values = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_bcvlr.bcvlr.bcvlr.LOG_STEPS", 1)
        draw = VideoDataset.sample_indices
        patch.setattr(VideoDataset, "sample_indices", lambda self, n: draw(self, min(n, 8)))  # 4096 labels take minutes here
        env = DummyVecEnv([NoiseEnv] * 4)
        model = BCVLR(env, videos, **{**hyperparams.get("bcvlr", "procgen"), **FEW}, seed=0, device="cpu")
        logger = Logger(None, [])
        patch.setattr(logger, "record", lambda key, value, exclude=None: values.update({key: value}))
        model.set_logger(logger)
        before = snapshot(model)
        model.learn(8)
    return values, model, before


@pytest.mark.parametrize(
    "key",
    [
        "pretrain/encoder_loss",
        "pretrain/world_model_error",
        "pretrain/error_to_copying",
        "pretrain/error_to_shuffled",
        "pretrain/code_use",
        "pretrain/imitation_loss",
        "train/action_loss",
        "train/dynamics_loss",
        "train/imitation_loss",
    ],
)
def test_every_loss_of_the_paper_preset_is_finite(logged, key):
    assert np.isfinite(logged[0][key])


def test_the_paper_preset_learns(logged):
    _, model, before = logged
    assert model._n_updates == 1
    assert moved(before, snapshot(model)) >= {"encoder", "idm", "world_model", "latent_policy", "action_decoder"}
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_the_paper_preset_leaves_the_statistics_neutral(logged):
    policy = logged[1].policy
    assert not policy.feature_mean.any() and not policy.latent_mean.any()
    assert (policy.feature_std == 1).all() and policy.latent_std == 1
