"""``compile``: the same steps, fused. Here by a compiler that only traces, since the real one takes a minute or two."""

import pytest
import torch as th
from toys import snapshot, tiny_model

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
