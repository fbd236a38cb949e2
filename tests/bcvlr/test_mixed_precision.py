"""``mixed_precision``: bfloat16 inside, the same results up to rounding."""

import pytest
import torch as th
from toys import snapshot, tiny_model

from sb3_bcvlr.common.contrastive import InfoNCE, PrototypeLoss

FEATURE_LOSSES = [
    (InfoNCE, dict(projection_dim=4, hidden_dim=8)),
    (PrototypeLoss, dict(projection_dim=4, hidden_dim=8, n_prototypes=8)),
]


NETWORKS = "encoder", "idm", "world_model", "latent_policy", "action_decoder"


def precisions_seen(model) -> dict[str, set[th.dtype]]:
    """What comes out of each network's layers where it learns, offline and online."""
    seen: dict[str, set[th.dtype]] = {name: set() for name in NETWORKS}

    def note(name, output):
        if output.requires_grad:
            seen[name].add(output.dtype)

    for name in NETWORKS:
        for layer in getattr(model.policy, name).modules():
            if isinstance(layer, th.nn.Conv2d | th.nn.Linear):
                layer.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
    model.learn(20)
    return seen


@pytest.mark.parametrize(("mixed_precision", "dtype"), [(True, th.bfloat16), (False, th.float32)])
def test_every_network_learns_in_the_precision_asked_for(mixed_precision, dtype):
    seen = precisions_seen(tiny_model(mixed_precision=mixed_precision))
    assert seen == {name: {dtype} for name in NETWORKS}


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_cpu_that_multiplies_bfloat16_does_unless_told_otherwise(monkeypatch, has_bfloat16):
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.multiplies_bfloat16", lambda device: has_bfloat16)
    seen = precisions_seen(tiny_model(mixed_precision=None))
    assert seen == {name: {th.bfloat16 if has_bfloat16 else th.float32} for name in NETWORKS}


def test_where_there_is_no_bfloat16_float32_is_used_and_said(monkeypatch):
    monkeypatch.setattr("sb3_bcvlr.bcvlr.bcvlr.lacks_bfloat16", lambda device: True)
    with pytest.warns(UserWarning, match="no bfloat16"):
        model = tiny_model(mixed_precision=True)
    assert precisions_seen(model) == {name: {th.float32} for name in NETWORKS}


@pytest.mark.parametrize(("loss_class", "kwargs"), FEATURE_LOSSES)
def test_weights_codes_and_statistics_stay_float32(loss_class, kwargs):
    model = tiny_model(mixed_precision=True, feature_loss_class=loss_class, feature_loss_kwargs=kwargs).learn(20)
    assert {tensor.dtype for tensor in model.policy.state_dict().values() if tensor.is_floating_point()} == {th.float32}


def test_latent_actions_are_float32():
    model = tiny_model(mixed_precision=True)
    assert model._label_videos(model.videos.sample_indices(5)).dtype == th.float32


@pytest.mark.parametrize(("loss_class", "kwargs"), FEATURE_LOSSES)
def test_feature_losses_agree_up_to_rounding(loss_class, kwargs):
    model = tiny_model()
    observations = model.policy.scale(model.videos.sample(8).frames)
    feature_loss, losses = loss_class(model.policy.encoder, model.observation_space.shape, **kwargs), []
    for enabled in (False, True):
        th.manual_seed(0)  # the same shifts
        with th.autocast("cpu", th.bfloat16, enabled=enabled):
            losses.append(feature_loss(observations))
    assert losses[1].dtype == th.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.03)
    assert losses[1].item() != losses[0].item()


def test_the_latent_action_loss_agrees_up_to_rounding():
    model = tiny_model().pretrain()
    frames, losses = model.videos.sample(8).frames, []
    model.policy.set_training_mode(False)
    for enabled in (False, True):
        with th.autocast("cpu", th.bfloat16, enabled=enabled):
            losses.append(model.policy.latent_dynamics(frames, 0.05)[1])
    assert losses[1].dtype == th.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.03)
    assert losses[1].item() != losses[0].item()


def test_the_codes_follow_in_float32():
    z = th.randn(64, 4)
    codes = []
    for enabled in (False, True):
        quantizer = tiny_model().policy.idm.quantizer.train()
        with th.autocast("cpu", th.bfloat16, enabled=enabled):
            th.manual_seed(0)
            quantizer(z)
        codes.append(quantizer.codes)
    assert th.equal(*codes)


def test_predict_does_not_depend_on_it():
    models = [tiny_model(mixed_precision=mixed) for mixed in (False, True)]
    assert all(th.equal(a, b) for a, b in zip(*(snapshot(model).values() for model in models), strict=True))
    logits: list[th.Tensor] = []
    for model in models:
        decode = model.policy.decode
        model.policy.decode = lambda frames, decode=decode: logits.append(decode(frames)) or logits[-1]
        model.predict(model.videos.sample(4).frames[:, -1].numpy())
    assert th.equal(*logits) and logits[0].dtype == th.float32
