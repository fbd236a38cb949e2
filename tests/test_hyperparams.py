"""Presets fit the signatures they are meant for, and have the paper's numbers."""

import inspect

import pytest

from sb3_bcvlr import BCVLR, hyperparams
from sb3_bcvlr.bcvlr import BCVLRPolicy
from sb3_bcvlr.common.contrastive import InfoNCE, PrototypeLoss
from sb3_bcvlr.common.networks import LatentPolicy
from sb3_bcvlr.common.vector_quantizer import VectorQuantizer
from sb3_bcvlr.envs.registration import DMCONTROL_TASKS
from sb3_bcvlr.hyperparams import bcvlr

CLASSES = {"bcvlr": (BCVLR, BCVLRPolicy)}
PRESETS = [
    (algorithm, suite, task)
    for algorithm in hyperparams.ALGORITHMS
    for suite in bcvlr.SUITES
    for task in (None, *bcvlr.TASKS.get(suite, ()))
]


@pytest.mark.parametrize(("algorithm", "suite", "task"), PRESETS)
def test_every_preset_binds_to_the_constructors(algorithm, suite, task):
    algorithm_class, policy_class = CLASSES[algorithm]
    preset = hyperparams.get(algorithm, suite, task)
    policy_kwargs = preset.get("policy_kwargs", {})
    inspect.signature(algorithm_class).bind("env", "videos", **preset)
    inspect.signature(policy_class).bind("observation_space", "action_space", **policy_kwargs)
    inspect.signature(VectorQuantizer).bind(**policy_kwargs.get("quantizer_kwargs", {}))
    latent_policy = policy_kwargs.get("latent_policy_class", LatentPolicy)
    inspect.signature(latent_policy).bind(
        "shape", "latent_dim", **policy_kwargs.get("latent_policy_kwargs", dict(channels=[], hidden_dim=1))
    )
    feature_loss = preset.get("feature_loss_class", InfoNCE)
    inspect.signature(feature_loss).bind("encoder", "shape", **preset.get("feature_loss_kwargs", {}))


def test_get_returns_fresh_copies():
    first = hyperparams.get("bcvlr", "procgen")
    first["learning_rate"] = 7
    first["policy_kwargs"]["quantizer_kwargs"]["codebook_size"] = 7
    second = hyperparams.get("bcvlr", "procgen")
    assert second["learning_rate"] == 2e-4
    assert second["policy_kwargs"]["quantizer_kwargs"]["codebook_size"] == 64


def test_merged_keeps_what_is_inside():
    assert hyperparams.merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {"a": {"b": 1, "c": 4}, "d": 3}


def test_changes_lie_over_a_preset_also_inside():
    preset = hyperparams.get("bcvlr", "procgen")
    changed = hyperparams.get("bcvlr", "procgen", tau=0.5, policy_kwargs=dict(quantizer_kwargs=dict(enabled=False)))
    quantizer_kwargs = preset["policy_kwargs"]["quantizer_kwargs"] | dict(enabled=False)
    assert changed == preset | dict(tau=0.5, policy_kwargs=preset["policy_kwargs"] | dict(quantizer_kwargs=quantizer_kwargs))


def test_names_may_be_written_large():
    assert hyperparams.get("BCVLR", "Procgen") == hyperparams.get("bcvlr", "procgen")


def test_a_task_without_anything_of_its_own_has_the_suite():
    assert hyperparams.get("bcvlr", "procgen", "bigfish") == hyperparams.get("bcvlr", "procgen")


@pytest.mark.parametrize("task", ["reacher-hard", "dmcontrol/reacher_hard-v0"])
def test_a_task_that_is_misspelled_is_told_the_right_name(task):
    with pytest.raises(ValueError, match=f"'{task}' has no hyper-parameters of its own; did you mean 'reacher_hard'"):
        hyperparams.get("bcvlr", "dmcontrol", task)


def test_no_other_task_is_taken_for_one_that_is_misspelled():
    assert all(hyperparams.get("bcvlr", "dmcontrol", task) for task in DMCONTROL_TASKS)


def test_a_task_lies_over_its_suite(monkeypatch):
    monkeypatch.setitem(bcvlr.TASKS, "procgen", {"maze": {"tau": 0.5}})
    preset = hyperparams.get("bcvlr", "procgen", "maze")
    assert (preset["tau"], preset["batch_size"]) == (0.5, 512)


def test_unknown_algorithms_are_refused():
    with pytest.raises(ValueError, match=r"algorithm 'ppo'; choose from \['bcvlr'\]"):
        hyperparams.get("ppo", "procgen")


def test_unknown_suites_are_refused():
    with pytest.raises(ValueError, match=r"suite 'atari'; choose from \['dmcontrol', 'dmcontrol_small', 'foraging'"):
        hyperparams.get("bcvlr", "atari")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder_learning_rate", 3e-5),
        ("dynamics_learning_rate", 3e-4),
        ("imitation_learning_rate", 2e-4),
        ("learning_rate", 2e-4),
        ("idm_learning_rate", 2e-5),
        ("action_decoder_learning_rate", 1e-3),
        ("pretrain_encoder_steps", 20_000),
        ("pretrain_dynamics_steps", 10_001),
        ("pretrain_imitation_steps", 20_001),
        ("encoder_batch_size", 512),
        ("dynamics_batch_size", 128),
        ("imitation_batch_size", 128),
        ("batch_size", 512),
        ("gradient_steps", 60),
        ("imitation_steps", 500),
        ("rollout_steps", 64 * 64),
        ("buffer_size", 20_000),
        ("world_model_coef", 15),
        ("commitment_coef", 0.05),
        ("max_grad_norm", 2),
        ("tau", 0.05),
        ("target_update_interval", 2),
        ("n_history", 2),
        ("policy_tau", 1),
        ("imitation_pad", 0),
        ("quantizer_warmup_steps", 0),
        ("mixed_precision", False),
    ],
)
def test_numbers_of_the_official_procgen_code(name, value):
    assert hyperparams.get("bcvlr", "procgen")[name] == value


@pytest.mark.parametrize("suite", ["procgen", "dmcontrol", "metaworld", "foraging"])
def test_the_published_stages_freeze_f_which_pi_shares_and_keep_w_online(suite):
    preset = hyperparams.get("bcvlr", suite)
    assert preset["tune_encoder"] == [] and preset["pretrain_encoder_steps"] > 0 and preset["world_model_coef"] > 0
    assert preset["policy_kwargs"]["share_encoder"]


def test_the_first_training_on_procgen_comes_after_64_steps_in_64_environments():
    preset = hyperparams.get("bcvlr", "procgen")
    assert preset["learning_starts"] < preset["rollout_steps"] == 4096  # SB3 trains when more steps than this have been made


@pytest.mark.parametrize(
    ("name", "value"), [("reconstruction_coef", 0.1), ("projection_dim", 256), ("hidden_dim", 512), ("pad", 1)]
)
def test_numbers_of_the_feature_loss_on_procgen(name, value):
    assert hyperparams.get("bcvlr", "procgen")["feature_loss_kwargs"][name] == value


@pytest.mark.parametrize(
    ("name", "value"), [("n_codebooks", 2), ("codebook_size", 64), ("code_dim", 16), ("n_latents", 4), ("decay", 0.999)]
)
def test_numbers_of_the_quantizer_on_procgen(name, value):
    assert hyperparams.get("bcvlr", "procgen")["policy_kwargs"]["quantizer_kwargs"][name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder_learning_rate", 1e-4),
        ("dynamics_learning_rate", 3e-4),
        ("imitation_learning_rate", 2e-4),
        ("learning_rate", 1e-3),
        ("idm_learning_rate", 1e-3),
        ("action_decoder_learning_rate", 1e-3),
        ("world_model_learning_rate", 1e-5),
        ("pretrain_encoder_steps", 50_000),
        ("pretrain_dynamics_steps", 50_001),
        ("pretrain_imitation_steps", 20_001),
        ("learning_starts", 999),
        ("rollout_steps", 1000),
        ("imitation_steps", 1000),
        ("world_model_coef", 1e-5),
        ("exploration_noise", 0.5),
        ("target_update_interval", 1),
        ("n_history", 1),
        ("batch_size", 512),
        ("encoder_batch_size", 512),
        ("dynamics_batch_size", 128),
        ("imitation_batch_size", 128),
        ("buffer_size", 100_000),
        ("n_epochs", 2),
        ("tau", 0.05),
        ("policy_tau", 1),
        ("imitation_pad", 0),
        ("quantizer_warmup_steps", 0),
        ("commitment_coef", 0.05),
        ("max_grad_norm", 2),
        ("mixed_precision", False),
        ("feature_loss_class", PrototypeLoss),
        ("feature_loss_kwargs", dict(projection_dim=128, hidden_dim=512, n_prototypes=512, temperature=0.1, pad=4)),
    ],
)
def test_numbers_of_the_official_dmcontrol_code(name, value):
    assert hyperparams.get("bcvlr", "dmcontrol")[name] == value


@pytest.mark.parametrize("task", ["reacher_easy", "Reacher_Hard", "jaco_reach_bottom_left", "jaco_reach_top_left"])
def test_reacher_and_jaco_weigh_the_dynamics_more(task):
    preset = hyperparams.get("bcvlr", "dmcontrol", task)
    assert preset["world_model_coef"] == preset["world_model_learning_rate"] == 1e-3
    assert preset["gradient_steps"] == 100 and preset["n_epochs"] is None


def test_metaworld_is_set_as_dmcontrol_is():
    assert hyperparams.get("bcvlr", "metaworld") == hyperparams.get("bcvlr", "dmcontrol")


@pytest.mark.parametrize("suite", ["procgen", "dmcontrol"])
def test_the_published_networks_see_frames_as_they_are_and_predict_them_whole(suite):
    policy_kwargs = hyperparams.get("bcvlr", suite)["policy_kwargs"]
    assert not any(policy_kwargs[name] for name in ("standardize", "frame_differences", "residual_world_model"))


@pytest.mark.parametrize(("name", "value"), [("dynamics_pad", 4), ("random_action_steps", 4), ("rollout_steps", 400)])
def test_numbers_of_the_published_figures_on_metaworld(name, value):
    assert hyperparams.get("bcvlr", "metaworld_small")[name] == value


@pytest.mark.parametrize(
    ("suite", "name", "value"),
    [
        ("foraging", "idm_learning_rate", 2e-5),
        ("foraging", "n_neighbors", 0),
        ("dmcontrol_small", "learning_starts", 999),
        ("dmcontrol_small", "imitation_steps", 320),
    ],
)
def test_numbers_of_the_published_figures_elsewhere(suite, name, value):
    assert hyperparams.get("bcvlr", suite)[name] == value
