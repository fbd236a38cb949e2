"""``compile``: the same steps, fused. Here by a compiler that only traces, since the real one takes a minute or two."""

import time

import pytest
import torch as th
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.utils import counters
from torch._functorch._aot_autograd.autograd_cache import check_cacheable
from toys import snapshot, tiny_model

LOSSES_AND_LABELS = {"_pretrain_encoder", "_latent_dynamics", "encode", "latent_actions", "_imitation_loss"}


@pytest.fixture
def compiled(monkeypatch):
    """The names of what is compiled, each of which has to be one graph that PyTorch can keep."""
    names = set()
    compile = th.compile

    def backend(graph, inputs):
        check_cacheable(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    def trace(function, dynamic, options):
        names.add(function.__qualname__.split(".")[1])
        return compile(function, backend=backend, fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(th, "compile", trace)
    return names


@pytest.mark.parametrize(("share_encoder", "action_imitation_coef"), [(True, 0.0), (False, 1.0)])
def test_what_is_compiled_is_one_graph_each_and_learns_the_same(compiled, share_encoder, action_imitation_coef):
    arguments = dict(action_imitation_coef=action_imitation_coef, policy_kwargs={"share_encoder": share_encoder})
    plain, fused = (tiny_model(**arguments, mixed_precision=False, compile=compile).learn(20) for compile in (False, True))
    assert compiled == LOSSES_AND_LABELS
    th.testing.assert_close(snapshot(fused), snapshot(plain), rtol=1e-3, atol=1e-4)


def test_nothing_is_compiled_unless_asked(compiled):
    tiny_model().learn(20)
    assert not compiled


class Doubled(th.autograd.Function):
    """One of our own, as the kernels and a pooling are."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_what_was_compiled_is_kept_for_the_next_run():
    model, x, never_compiled_before = tiny_model(compile=True), th.ones(1, requires_grad=True), time.time()
    for hits in (0, 1):
        th._dynamo.reset()
        counters.clear()
        model._compiled(lambda x: Doubled.apply(x) * never_compiled_before)(x).backward()
        assert counters["aot_autograd"]["autograd_cache_hit"] == hits
    assert x.grad.item() == pytest.approx(4 * never_compiled_before)
