"""The kernel against PyTorch's convolutions, by Triton's interpreter (conftest) where there is no GPU."""

from types import SimpleNamespace

import pytest
import torch as th

from sb3_bcvlr.common import kernels, networks
from sb3_bcvlr.common.contrastive import InfoNCE
from sb3_bcvlr.common.networks import Encoder, ResidualBlock

pytest.importorskip("triton", reason="Triton interprets the kernel")
DEVICE = "cuda" if th.cuda.is_available() else "cpu"
DOUBTFUL = pytest.param([12], 1, marks=pytest.mark.xfail(DEVICE == "cuda", reason="fails on an H100: suits() refuses it"))
SHAPES = [(2, 6, 8, 16, 16), (1, 3, 6, 8, 8), (2, 5, 4, 24, 12), (3, 7, 64, 16, 16)]  # the last is more than a program takes


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter takes its time for each; and so some handle several parts of the maps."""
    for settings in (kernels.CONVOLUTION_16, kernels.BACKWARD, kernels.BACKWARD_16, kernels.BACKWARD_WIDE):
        monkeypatch.setitem(settings, "n_programs", 3)
    for settings in (kernels.BACKWARD_WIDE, kernels.BACKWARD_WIDE_SMALL):  # of float32 on a GPU, twice as large as bfloat16
        monkeypatch.setitem(settings, "n_pairs", 32)
    monkeypatch.setattr(th.backends.cudnn, "allow_tf32", False)  # of the convolutions that they are compared with


def parameters(block):
    return block.conv1.weight, block.conv1.bias, block.conv2.weight, block.conv2.bias


@pytest.fixture(params=SHAPES)
def block_and_maps(request):
    th.manual_seed(0)
    *shape, n_hidden = request.param
    return ResidualBlock(shape[3], n_hidden).to(DEVICE), th.randn(shape, device=DEVICE, requires_grad=True)


def plain(layer, maps):
    return layer(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def assert_same_gradients(outputs, expected, inputs):
    weights = th.randn_like(expected)
    gradients = (th.autograd.grad((y * weights).sum(), inputs) for y in (outputs, expected))
    for gradient, expected in zip(*gradients, strict=True):
        th.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_it_computes_a_residual_block(block_and_maps):
    block, maps = block_and_maps
    th.testing.assert_close(kernels.NarrowResidualBlock.apply(maps, *parameters(block)), plain(block, maps))


def test_its_gradients_are_those_of_a_residual_block(block_and_maps):
    block, maps = block_and_maps
    output = kernels.NarrowResidualBlock.apply(maps, *parameters(block))
    assert_same_gradients(output, plain(block, maps), (maps, *parameters(block)))


def test_a_frozen_block_passes_the_gradient_on(block_and_maps):
    block, maps = block_and_maps
    block.requires_grad_(False)
    output = kernels.NarrowResidualBlock.apply(maps, *parameters(block))
    assert_same_gradients(output, plain(block, maps), (maps,))


@pytest.mark.parametrize("where", ["maps", "weight1", "weight2"])
def test_what_is_no_number_is_not_hidden(where):
    block, maps = ResidualBlock(16, 16).to(DEVICE), th.zeros(1, 5, 16, 16, device=DEVICE)
    {"maps": maps, "weight1": block.conv1.weight, "weight2": block.conv2.weight}[where].data[0] = th.nan
    expected = plain(block, maps).isnan()
    assert expected.any()
    assert kernels.NarrowResidualBlock.apply(maps, *parameters(block))[expected].isnan().all()


@pytest.fixture(params=[(16, 4), (4, 16), (8, 24)])
def convolution_and_maps(request):
    th.manual_seed(0)
    n_input, n_output = request.param
    maps = th.randn(2, 5, 6, n_input, device=DEVICE, requires_grad=True)
    return th.nn.Conv2d(n_input, n_output, 3, padding=1).to(DEVICE), maps


def test_it_computes_a_convolution(convolution_and_maps):
    convolution, maps = convolution_and_maps
    th.testing.assert_close(kernels.NarrowConvolution.apply(maps, *convolution.parameters()), plain(convolution, maps))


def test_its_gradients_are_those_of_a_convolution(convolution_and_maps):
    convolution, maps = convolution_and_maps
    output = kernels.NarrowConvolution.apply(maps, *convolution.parameters())
    assert_same_gradients(output, plain(convolution, maps), (maps, *convolution.parameters()))


def test_a_convolution_of_pictures_has_the_gradients_of_its_weights(convolution_and_maps):
    convolution, maps = convolution_and_maps
    maps = maps.detach()
    output = kernels.NarrowConvolution.apply(maps, *convolution.parameters())
    assert_same_gradients(output, plain(convolution, maps), tuple(convolution.parameters()))


@pytest.fixture
def chosen(monkeypatch):
    """The way of a GPU, wherever this is."""
    monkeypatch.setattr(networks.FoldedConvolutions, "suits", lambda self, x: True)
    monkeypatch.setattr(kernels, "suits", lambda x, channels: max(channels) <= kernels.MAX_CHANNELS)


def assert_computes_the_same(fast, plain, inputs, parameters):
    outputs, expected = fast(inputs), plain(inputs)
    th.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    gradients = (th.autograd.grad(y.square().sum(), parameters) for y in (outputs, expected))
    for gradient, expected in zip(*gradients, strict=True):
        th.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize(("channels", "n_residual_blocks"), [([16], 2), ([8, 16], 1), ([16], 0), DOUBTFUL])
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_an_encoder_computes_the_same_with_it(chosen, channels, n_residual_blocks, final_relu, backend):
    encoder = Encoder((3, 6, 16), channels, [1] * len(channels), n_residual_blocks, final_relu).to(DEVICE)
    fast = th.compile(encoder, backend=backend, fullgraph=True) if backend else encoder

    def plain(x):  # without the blocks' own choice of a way
        for layer in encoder.net:
            x = x + layer.conv2(layer.conv1(x.relu()).relu()) if isinstance(layer, ResidualBlock) else layer(x)
        return x

    assert_computes_the_same(fast, plain, th.rand(2, 3, 6, 16, device=DEVICE), list(encoder.parameters()))


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_reconstruction_computes_the_same_with_it(chosen, backend):
    feature_loss = InfoNCE(Encoder((3, 4, 16), [16], [1]), (3, 4, 16)).to(DEVICE)
    fast = th.compile(feature_loss.reconstruct, backend=backend, fullgraph=True) if backend else feature_loss.reconstruct
    features = th.rand(2, 16, 4, 16, device=DEVICE, requires_grad=True)
    parameters = [features, *feature_loss.reconstruction.parameters()]
    assert_computes_the_same(fast, feature_loss.reconstruction, features, parameters)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_residual_block_computes_the_same_with_it(chosen, frozen, backend):
    block = ResidualBlock(24, 12).to(DEVICE).requires_grad_(not frozen)
    maps = th.rand(2, 24, 3, 8, device=DEVICE, requires_grad=True)
    parameters = [maps] if frozen else [maps, *block.parameters()]

    def plain(x):
        return x + block.conv2(block.conv1(x.relu()).relu())

    assert_computes_the_same(th.compile(block, backend=backend, fullgraph=True) if backend else block, plain, maps, parameters)


def test_more_channels_are_folded(chosen):
    block = ResidualBlock(40, 20).to(DEVICE)
    maps = th.rand(1, 40, 2, 4, device=DEVICE)
    th.testing.assert_close(block(maps), maps + block.conv2(block.conv1(maps.relu()).relu()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n_bytes", "name"), [(232_448, "BACKWARD_WIDE"), (101_376, "BACKWARD_WIDE_SMALL")])
def test_a_gpu_of_little_shared_memory_takes_smaller_lots(monkeypatch, n_bytes, name):
    properties = SimpleNamespace(shared_memory_per_block_optin=n_bytes)
    monkeypatch.setattr(th.cuda, "get_device_properties", lambda device: properties)
    shared_memory = kernels._shared_memory(th.device("cuda:0"))
    assert kernels._settings(12, 24, of_weights=True, shared_memory=shared_memory) is getattr(kernels, name)


@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16])
def test_a_cpu_does_without_it(dtype):
    assert not kernels.suits(th.zeros(2, 16, 4, 8, dtype=dtype), [16, 16])


@pytest.mark.parametrize(
    ("channels", "are_taken"), [([3, 16], True), ([3, 12], False), ([12, 16], False), ([24, 12], True), ([32], False)]
)
def test_it_is_for_channels_that_it_was_right_with_on_a_gpu(monkeypatch, channels, are_taken):
    maps = SimpleNamespace(shape=(2, channels[0], 4, 8), is_cuda=True)
    monkeypatch.setattr(th.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(kernels, "working_dtype", lambda x: th.bfloat16)
    assert kernels.suits(maps, channels) is are_taken
