"""A policy as an ONNX graph: what ONNX Runtime makes of it is what PyTorch does."""

import builtins

import numpy as np
import pytest
import torch as th
from gymnasium.spaces import Box
from toys import N_ACTIONS, ActionPictureEnv, DotEnv, dot_videos, tiny_arguments, tiny_model

from sb3_bcvlr import BCVLR
from sb3_bcvlr.bcvlr.export import ActingNetworks, export_onnx

BATCH_SIZES = 1, 64


class LopsidedEnv(DotEnv):
    """Bounds that differ from each other and from 1."""

    def __init__(self):
        super().__init__()
        self.action_space = Box(np.array([-2, 0], np.float32), np.array([1, 0.5], np.float32))


@pytest.fixture(scope="module", params=[ActionPictureEnv, LopsidedEnv])
def exported(request, tmp_path_factory):
    """The model, its file and what ONNX Runtime makes of random pictures, by batch size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    share_encoder = request.param is LopsidedEnv  # either way in one of the two
    model = BCVLR(request.param(), None, **tiny_arguments(policy_kwargs={"share_encoder": share_encoder}))
    rng = np.random.default_rng(0)
    pictures = {n: rng.integers(0, 256, (n, *model.observation_space.shape), dtype=np.uint8) for n in BATCH_SIZES}
    with th.no_grad():  # outputs on both sides of 0, and actions beyond the bounds
        last = model.policy.action_decoder[-1]
        last.weight *= 2 / model.policy.decode(th.as_tensor(pictures[64])).std(0)[:, None]
        last.bias -= model.policy.decode(th.as_tensor(pictures[64])).mean(0)
    path = tmp_path_factory.mktemp("onnx") / "policy.onnx"
    export_onnx(model.policy, path)
    session = onnxruntime.InferenceSession(path)
    outputs = {n: session.run(None, {"observations": pictures[n]})[0] for n in BATCH_SIZES}
    return model, path, session, pictures, outputs


def outputs_of_torch(model, pictures):
    """Logits, or actions as ``predict`` gives them."""
    if model.policy.is_discrete:
        with th.no_grad():
            return model.policy.decode(th.as_tensor(pictures)).numpy()
    return model.predict(pictures, deterministic=True)[0]


@pytest.mark.parametrize("n", BATCH_SIZES)
def test_the_graph_computes_what_the_policy_does(exported, n):
    model, _, _, pictures, outputs = exported
    expected = outputs_of_torch(model, pictures[n])
    assert outputs[n].shape == expected.shape
    assert np.abs(outputs[n] - expected).max() < 1e-4


@pytest.mark.parametrize("exported", [ActionPictureEnv], indirect=True)
def test_the_likeliest_logit_is_the_deterministic_action(exported):
    model, _, _, pictures, outputs = exported
    assert outputs[64].shape == (64, N_ACTIONS)
    assert (outputs[64].argmax(1) == model.predict(pictures[64], deterministic=True)[0]).all()


@pytest.mark.parametrize("exported", [LopsidedEnv], indirect=True)
def test_exported_actions_reach_the_bounds_and_stay_within(exported):
    model, _, _, _, outputs = exported
    assert np.allclose(outputs[64].min(0), model.action_space.low)
    assert np.allclose(outputs[64].max(0), model.action_space.high)


def test_the_output_is_named_after_what_it_is(exported):
    model, _, session, _, _ = exported
    assert [output.name for output in session.get_outputs()] == ["logits" if model.policy.is_discrete else "actions"]


def test_the_graph_is_one_file_without_idm_and_world_model(exported):
    onnx = pytest.importorskip("onnx")
    model, path, _, _, _ = exported
    policy = model.policy
    acting = [policy.latent_policy, policy.action_decoder, *([policy.encoder] if policy.share_encoder else [])]
    n_parameters = sum(parameter.numel() for network in acting for parameter in network.parameters())
    n_stored = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)
    assert [file.name for file in path.parent.iterdir()] == ["policy.onnx"]
    assert n_parameters <= n_stored < n_parameters + 50  # statistics and bounds beside them


def test_a_model_is_exported_as_its_policy_into_a_folder_that_is_made(monkeypatch, tmp_path):
    pytest.importorskip("onnxscript")
    model, path = tiny_model(), tmp_path / "new" / "policy.onnx"
    monkeypatch.setattr(th.onnx, "export", lambda networks, _, path, **__: path.write_text(type(networks.policy).__name__))
    export_onnx(model, path)
    assert path.read_text() == "BCVLRPolicy"


def test_exporting_leaves_the_policy_as_it_was(monkeypatch, tmp_path):
    pytest.importorskip("onnxscript")
    policy, seen = tiny_model().policy, []
    policy.set_training_mode(True)
    monkeypatch.setattr(th.onnx, "export", lambda networks, *_, **__: seen.append(networks))
    with pytest.raises(FileNotFoundError):  # nothing was written
        export_onnx(policy, tmp_path / "policy.onnx")
    assert policy.training and not seen[0].training
    assert seen[0].policy is not policy


def test_without_onnx_the_error_says_what_to_install(monkeypatch, tmp_path):
    import_module = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name == "onnxscript":
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(ImportError, match=r"pip install 'sb3_bcvlr\[onnx\]'"):
        export_onnx(tiny_model().policy, tmp_path / "policy.onnx")


def test_a_failure_leaves_no_file(monkeypatch, tmp_path):
    pytest.importorskip("onnxscript")

    def fail(networks, example, path, **_):
        path.write_bytes(b"half")
        raise RuntimeError("full disk")

    monkeypatch.setattr(th.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="full disk"):
        export_onnx(tiny_model().policy, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_bounds_of_several_axes_are_laid_flat():
    env, (videos, _, _) = DotEnv(), dot_videos(1)
    env.action_space = Box(np.array([[-2], [0]], np.float32), np.array([[1], [0.5]], np.float32))
    model, pictures = tiny_model(env, videos), videos[0].transpose(0, 3, 1, 2).copy()
    with th.no_grad():
        actions = ActingNetworks(model.policy.eval())(th.as_tensor(pictures))
    np.testing.assert_allclose(actions, model.predict(pictures)[0].reshape(-1, 2), atol=1e-5)


def test_rounding_takes_no_exported_action_beyond_the_bounds():
    env, (videos, _, _) = DotEnv(), dot_videos(1)
    env.action_space = Box(-3.0, 0.2, (2,), np.float32)
    model = tiny_model(env, videos)
    with th.no_grad():
        model.policy.action_decoder[-1].bias.fill_(5.0)
        actions = ActingNetworks(model.policy.eval())(th.as_tensor(videos[0].transpose(0, 3, 1, 2).copy()))
    assert all(map(env.action_space.contains, actions.numpy()))


@pytest.mark.parametrize("env", [ActionPictureEnv, LopsidedEnv])
def test_neighbors_are_part_of_the_graph(env, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = BCVLR(env(), None, **tiny_arguments(n_neighbors=3))
    pictures = np.random.default_rng(0).integers(0, 256, (64, *model.observation_space.shape), dtype=np.uint8)
    with th.no_grad():
        latent_actions = model.policy.imitate(th.as_tensor(pictures), model.policy.latent_policy_average)
    model.policy.keep_video_latents(latent_actions[:40])
    export_onnx(model, tmp_path / "policy.onnx")
    (outputs,) = onnxruntime.InferenceSession(tmp_path / "policy.onnx").run(None, {"observations": pictures})
    assert np.abs(outputs - outputs_of_torch(model, pictures)).max() < 1e-4
