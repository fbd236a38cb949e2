"""The kernel against PyTorch's convolutions, by Triton's interpreter (conftest) where there is no GPU."""

import pytest
import torch as th

from sb3_bcvlr.common import kernels, networks
from sb3_bcvlr.common.networks import Encoder, ResidualBlock

pytest.importorskip("triton", reason="Triton interprets the kernel")
DEVICE = "cuda" if th.cuda.is_available() else "cpu"
SHAPES = [(2, 6, 8, 16), (1, 3, 12, 8), (3, 7, 64, 16)]  # the last is more than a program handles


def parameters(block):
    return block.conv1.weight, block.conv1.bias, block.conv2.weight, block.conv2.bias


@pytest.fixture(params=SHAPES)
def block_and_maps(request):
    th.manual_seed(0)
    return ResidualBlock(request.param[3], request.param[3]).to(DEVICE), th.randn(
        request.param, device=DEVICE, requires_grad=True
    )


def plain(block, maps):
    return block(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_it_computes_a_residual_block_and_its_relu(block_and_maps):
    block, maps = block_and_maps
    output, rectified = kernels.NarrowResidualBlock.apply(maps, maps.relu().detach(), *parameters(block), False)
    th.testing.assert_close(output, plain(block, maps))
    th.testing.assert_close(rectified, plain(block, maps).relu())


def test_its_gradients_are_those_of_a_residual_block(block_and_maps):
    block, maps = block_and_maps
    output, _ = kernels.NarrowResidualBlock.apply(maps, maps.relu().detach(), *parameters(block), False)
    weights = th.randn_like(output)
    gradients = (th.autograd.grad((y * weights).sum(), (maps, *parameters(block))) for y in (output, plain(block, maps)))
    for gradient, expected in zip(*gradients, strict=True):
        th.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_the_last_block_leaves_the_relu_out(block_and_maps):
    block, maps = block_and_maps
    output, rectified = kernels.NarrowResidualBlock.apply(maps, maps.relu().detach(), *parameters(block), True)
    th.testing.assert_close(output, plain(block, maps))
    assert rectified.numel() == 0


@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize(("channels", "n_residual_blocks"), [([16], 2), ([8, 16], 1), ([16], 0), ([12], 1)])
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_an_encoder_computes_the_same_with_it(monkeypatch, channels, n_residual_blocks, final_relu, backend):
    monkeypatch.setattr(networks.FoldedConvolutions, "suits", lambda self, x: True)
    monkeypatch.setattr(kernels, "suits", lambda x: x.shape[3] in (8, 16))
    encoder = Encoder((3, 6, 16), channels, [1] * len(channels), n_residual_blocks, final_relu).to(DEVICE)
    images = th.rand(2, 3, 6, 16, device=DEVICE)
    fast = th.compile(encoder, backend=backend, fullgraph=True) if backend else encoder
    features, expected = fast(images), encoder.net(images)
    th.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    gradients = (th.autograd.grad(y.square().sum(), list(encoder.parameters())) for y in (features, expected))
    for gradient, expected in zip(*gradients, strict=True):
        th.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16])
def test_a_cpu_does_without_it(dtype):
    assert not kernels.suits(th.zeros(2, 4, 8, 16, dtype=dtype))
