"""``compile``: the same steps, fused. Here by a compiler that only traces, since the real one takes a minute or two."""

import pytest
import torch as th
from torch._dynamo.utils import counters
from toys import snapshot, tiny_model

from sb3_bcvlr.common import networks

LOSSES_AND_LABELS = {"_pretrain_encoder", "_latent_dynamics", "_label_videos", "_imitation_loss"}


@pytest.fixture
def compiled(monkeypatch):
    """The names of what is compiled, each of which has to be one graph."""
    names = set()
    compile = th.compile

    def trace(function, dynamic, options):
        names.add(function.__qualname__.split(".")[1])
        return compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(th, "compile", trace)
    return names


@pytest.mark.parametrize("share_encoder", [True, False])
def test_what_is_compiled_is_one_graph_each_and_learns_the_same(compiled, share_encoder):
    arguments = dict(mixed_precision=False, policy_kwargs={"share_encoder": share_encoder})
    plain, fused = (tiny_model(**arguments, compile=compile).learn(20) for compile in (False, True))
    assert compiled == LOSSES_AND_LABELS
    th.testing.assert_close(snapshot(fused), snapshot(plain), rtol=1e-3, atol=1e-4)


def test_nothing_is_compiled_unless_asked(compiled):
    tiny_model().learn(20)
    assert not compiled


def test_what_was_compiled_is_kept_for_the_next_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(networks, "is_on_gpu", lambda x: True)  # where a pooling has a gradient of its own
    model = tiny_model(compile=True)
    convolution, maps = th.nn.Conv2d(2, 2, 3, padding=1), th.rand(1, 2, 4, 4)

    def loss(maps):
        return networks.convolve_and_pool(convolution, maps).sum()

    gradients = []
    for hits in (0, 1):
        th._dynamo.reset()
        counters.clear()
        model._compiled(loss)(maps).backward()
        assert counters["aot_autograd"]["autograd_cache_hit"] == hits
        gradients.append(convolution.weight.grad)
        convolution.weight.grad = None
    assert gradients[0].any() and (gradients[0] == gradients[1]).all()
