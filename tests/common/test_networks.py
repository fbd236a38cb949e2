"""The networks have the paper's sizes, and do what their docstrings say."""

import pytest
import torch as th
from gymnasium import spaces
from torch.nn import functional as F

from sb3_bcvlr import hyperparams
from sb3_bcvlr.bcvlr import BCVLRPolicy
from sb3_bcvlr.common import networks
from sb3_bcvlr.common.networks import (
    ActionDecoder,
    DrQLatentPolicy,
    Encoder,
    FoldedConvolutions,
    ImpalaCNN,
    InverseDynamicsModel,
    LatentPolicy,
    MaxPool,
    ResidualBlock,
    WorldModel,
    convolve_and_pool,
    convolve_tiled,
    grow_pixels,
    max_pool,
    tile_places,
)
from sb3_bcvlr.common.vector_quantizer import VectorQuantizer


def n_parameters(module: th.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def preset_policy(suite: str, shape: tuple[int, ...], action_space: spaces.Space) -> BCVLRPolicy:
    preset = hyperparams.get("bcvlr", suite)
    space = spaces.Box(0, 255, shape, "uint8")
    return BCVLRPolicy(space, action_space, n_history=preset["n_history"], **preset["policy_kwargs"])


@pytest.fixture(scope="module")
def paper_policy():
    return preset_policy("procgen", (3, 64, 64), spaces.Discrete(15))


@pytest.mark.parametrize(
    ("network", "n_expected"),
    [
        ("encoder", 9_728),
        ("idm", 3_707_840),  # trunk 1,577,536 + 2,097,408, head 32,896
        ("world_model", 7_825_696),
        ("latent_policy", 3_689_408),  # the authors' 3,689,665 hold an unused value head of 257
        ("action_decoder", 58_703),
    ],
)
def test_the_paper_preset_has_the_authors_number_of_parameters(paper_policy, network, n_expected):
    assert n_parameters(getattr(paper_policy, network)) == n_expected


@pytest.mark.parametrize(
    ("network", "n_expected"),
    [
        ("encoder", 30_368),
        ("idm", 2_144_192),  # trunk 1,586,752 + 524,544, head 32,896
        ("world_model", 2_046_896),
        ("latent_policy", 2_871_574),
        ("action_decoder", 57_858),
    ],
)
def test_the_dmcontrol_preset_has_the_authors_number_of_parameters(network, n_expected):
    assert n_parameters(getattr(preset_policy("dmcontrol", (9, 64, 64), spaces.Box(-1, 1, (2,))), network)) == n_expected


def test_the_dmcontrol_features_are_not_negative():
    policy = preset_policy("dmcontrol", (9, 64, 64), spaces.Box(-1, 1, (2,)))
    features = policy.encoder(th.rand(2, 9, 64, 64) - 0.5)
    assert features.shape == (2, 32, 32, 32) and (features >= 0).all()


@pytest.mark.parametrize(("n_actions", "n_expected"), [(2, 57_858), (6, 58_118), (9, 58_313), (15, 58_703)])
def test_the_action_decoder_has_the_authors_number_of_parameters(n_actions, n_expected):
    assert n_parameters(ActionDecoder(128, (192, 128, 64), n_actions)) == n_expected


def test_the_paper_encoder_keeps_the_resolution(paper_policy):
    assert paper_policy.encoder.feature_shape == (16, 64, 64)
    assert paper_policy.encoder(th.zeros(2, 3, 64, 64)).shape == (2, 16, 64, 64)


def test_the_paper_latent_action_has_128_numbers(paper_policy):
    assert paper_policy.idm.quantizer.latent_dim == 128


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 17, 31), (12, 20, 10)])
@pytest.mark.parametrize("strides", [(1,), (2, 2), (3, 1, 2)])
def test_feature_shape_is_the_shape_of_the_features(shape, strides):
    encoder = Encoder(shape, [4] * len(strides), strides, 1)
    assert encoder(th.zeros(2, *shape)).shape == (2, *encoder.feature_shape)


@pytest.mark.parametrize(("channels", "strides"), [((4, 4), (2,)), ((4,), (2, 2)), ((), ())])
def test_one_stride_for_each_convolution_of_the_encoder(channels, strides):
    with pytest.raises(
        ValueError, match=rf"channels are \[.*\] and its strides \[{', '.join(map(str, strides))}\], expected one"
    ):
        Encoder((3, 16, 16), channels, strides)


def test_no_activation_ends_the_encoder():
    th.manual_seed(0)
    assert (Encoder((3, 16, 16), (4, 4), (1, 2), 0)(th.randn(2, 3, 16, 16)) < 0).any()


def test_the_encoder_starts_orthogonal_with_gain_sqrt_2_and_no_bias():
    layer = Encoder((3, 16, 16), (4,), (1,), 0).net[0]
    rows = layer.weight.flatten(1)
    assert th.allclose(rows @ rows.T, 2 * th.eye(4), atol=1e-5)
    assert not layer.bias.any()


def test_a_residual_block_without_weights_is_the_identity():
    block, x = ResidualBlock(4, 2), th.randn(2, 4, 5, 6)
    th.nn.init.zeros_(block.conv2.weight)
    th.nn.init.zeros_(block.conv2.bias)
    assert th.equal(block(x), x)


def test_each_impala_stage_halves_the_map():
    network = ImpalaCNN((3, 16, 20), (4, 5), 7)
    assert network.convolutions(th.zeros(2, 3, 16, 20)).shape == (2, 5, 4, 5)
    assert network(th.randn(2, 3, 16, 20)).shape == (2, 7)


@pytest.mark.parametrize("n_history", [1, 2, 3])
def test_the_idm_reads_all_frames_of_a_window(n_history):
    th.manual_seed(0)
    quantizer = VectorQuantizer(2, 8, 2, 1)
    idm = InverseDynamicsModel((4, 8, 8), n_history, (4,), 8, quantizer)
    features = th.randn(1, n_history + 1, 4, 8, 8, requires_grad=True)
    latent_actions = idm(features)
    assert latent_actions.shape == (1, quantizer.latent_dim)
    latent_actions.sum().backward()
    assert features.grad.flatten(2).any(-1).all()


def test_the_latent_policy_gives_a_latent_action_for_each_feature_map():
    assert LatentPolicy((4, 8, 9), 6, (4, 4), 8)(th.zeros(3, 4, 8, 9)).shape == (3, 6)


def test_the_action_decoder_is_linear_where_it_ends():
    decoder = ActionDecoder(4, (8, 6), 3)
    assert [type(layer).__name__ for layer in decoder] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert decoder(th.zeros(5, 4)).shape == (5, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (5, 7), (8, 8), (9, 3), (6, 16), (1, 17)])
@pytest.mark.parametrize("zero_start", [False, True])
def test_the_world_model_predicts_maps_of_any_size(size, zero_start):
    world_model = WorldModel((3, *size), 2, 5, 4, zero_start)
    assert world_model(th.randn(2, 2, 3, *size), th.randn(2, 5)).shape == (2, 3, *size)


@pytest.mark.parametrize(("side", "n_levels"), [(64, 5), (32, 4), (33, 4), (31, 4), (24, 3), (16, 3), (8, 2), (4, 1), (2, 1)])
def test_the_world_model_goes_down_to_three_pixels(side, n_levels):
    assert len(WorldModel((1, side, side), 1, 1, 2).down_blocks) == n_levels


@pytest.mark.parametrize(
    ("size", "padding", "smallest"),
    [((16, 16), (0, 0, 0, 0), (2, 2)), ((12, 24), (0, 0, 0, 0), (3, 6)), ((10, 15), (0, 1, 0, 2), (3, 4))],
)
def test_the_world_model_pads_what_cannot_be_halved(size, padding, smallest):
    world_model = WorldModel((3, *size), 2, 5, 4)
    assert (world_model.padding, world_model.bottleneck.kernel_size) == (padding, smallest)


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_a_world_model_with_zero_start_predicts_nothing_at_first(size):
    output = WorldModel((4, *size), 3, 5, 4, zero_start=True)(th.randn(2, 3, 4, *size), th.randn(2, 5))
    assert output.shape == (2, 4, *size) and not output.any()


def test_a_world_model_that_is_not_residual_does_not_copy():
    past = th.randn(2, 3, 4, 8, 8)
    assert not th.allclose(WorldModel((4, 8, 8), 3, 5, 4)(past, th.randn(2, 5)), past[:, -1], atol=0.1)


@pytest.mark.parametrize(("bounded", "expected"), [(True, True), (False, False)])
def test_bounded_output_stays_within_a_half(bounded, expected):
    world_model = WorldModel((4, 8, 8), 1, 5, 4, bounded_output=bounded)
    th.nn.init.constant_(world_model.output[-1].bias, 3.0)
    output = world_model(1000 * th.randn(4, 1, 4, 8, 8), th.randn(4, 5))
    assert (output.abs().max().item() <= 0.5) is expected


def test_the_latent_action_enters_the_world_model():
    th.manual_seed(0)
    world_model = WorldModel((4, 8, 8), 2, 5, 4).eval()
    past = th.randn(1, 2, 4, 8, 8)
    first, second = world_model(past.repeat(2, 1, 1, 1, 1), th.randn(2, 5))
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("deaf", "hears"), [(set(), True), ({"input"}, True), ({"bottleneck"}, True), ({"input", "bottleneck"}, False)]
)
def test_the_latent_action_enters_at_the_input_and_at_the_bottleneck(deaf, hears):
    world_model = WorldModel((4, 8, 8), 2, latent_dim=5, base_channels=4).eval()
    with th.no_grad():
        if "input" in deaf:
            world_model.down_blocks[0][0].weight[:, 2 * 4 :] = 0  # the two past maps come first
        if "bottleneck" in deaf:
            world_model.up_blocks[0][0].weight[16:] = 0  # the bottleneck's channels come first
        first, second = world_model(th.randn(1, 2, 4, 8, 8).expand(2, -1, -1, -1, -1), th.randn(2, 5))
    assert ((first - second).abs().max() > 1e-6) == hears


@pytest.mark.parametrize("n", [1, 2, 4])
def test_folded_convolutions_do_what_their_layers_do(n):
    encoder = Encoder((3, 8, 12), [4], [1], 2).double()
    images = th.rand(2, 3, 8, 12).double()
    gradients = []
    for features in (encoder.net(images), FoldedConvolutions(n).double()(encoder.net, images)):
        gradients.append(th.autograd.grad(features.square().sum(), list(encoder.parameters())))
    th.testing.assert_close(features, encoder.net(images))
    th.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("channels", [3, 4, 24])
def test_a_residual_block_can_be_folded(channels):
    block, images = ResidualBlock(channels, channels // 2).double(), th.rand(2, channels, 8, 12).double()
    th.testing.assert_close(FoldedConvolutions(2).double()([block], images), block(images))


@pytest.mark.parametrize(
    ("size", "sides"), [(3, (8, 8)), (3, (7, 9)), (3, (6, 5)), (3, (1, 1)), (2, (8, 8)), (2, (6, 4)), (2, (2, 2))]
)
@pytest.mark.parametrize("backend", [None, "inductor"])
def test_max_pooling_is_that_of_pytorch_with_its_gradient(size, sides, backend):
    maps = th.randint(5, (3, 4, *sides)).float().requires_grad_()  # with ties
    pool = th.compile(MaxPool.apply, backend=backend, dynamic=False) if backend else MaxPool.apply
    pooled, expected = pool(maps, size), max_pool(maps, size)
    th.testing.assert_close(pooled, expected, rtol=0, atol=0)
    weights = th.randn_like(expected)
    gradients = [th.autograd.grad((y * weights).sum(), maps) for y in (pooled, expected)]
    th.testing.assert_close(*gradients)


def test_pooling_is_that_of_pytorch():
    maps = th.rand(2, 3, 8, 6)
    th.testing.assert_close(max_pool(maps, 3), F.max_pool2d(maps, 3, stride=2, padding=1))
    th.testing.assert_close(max_pool(maps, 2), F.max_pool2d(maps, 2))


def test_a_bias_can_be_added_after_pooling():
    convolution, images = th.nn.Conv2d(3, 5, 3, padding=1).double(), th.rand(2, 3, 8, 12).double()
    pooled = F.max_pool2d(convolution(images), 3, stride=2, padding=1)
    th.testing.assert_close(convolve_and_pool(convolution, images), pooled)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_gpu_computes_the_same_trunk(monkeypatch, backend):
    trunk, images = ImpalaCNN((3, 13, 16), (4, 5), 7), th.rand(2, 3, 13, 16)
    expected = trunk(images)
    monkeypatch.setattr(networks, "is_on_gpu", lambda x: True)
    features = (th.compile(trunk, backend=backend, fullgraph=True) if backend else trunk)(images)
    th.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    gradients = (th.autograd.grad(y.square().sum(), list(trunk.parameters())) for y in (features, expected))
    for gradient, of_expected in zip(*gradients, strict=True):
        th.testing.assert_close(gradient, of_expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (6, 8)])
def test_vectors_need_no_tiling_to_be_convolved(size):
    convolution = th.nn.Conv2d(5 + 7, 4, 3, padding=1).double()
    maps, vectors = th.rand(2, 5, *size).double(), th.rand(2, 7, 1, 1).double()
    tiled = th.cat((maps, vectors.expand(-1, -1, *size)), dim=1)
    th.testing.assert_close(convolve_tiled(convolution, maps, vectors, tile_places(*size).double()), convolution(tiled))


@pytest.mark.parametrize("size", [(2, 2), (3, 6)])
@pytest.mark.parametrize("sides", [(1, 1), (4, 5)])
def test_pixels_grow_as_a_transposed_convolution_makes_them(size, sides):
    convolution, pixels = th.nn.ConvTranspose2d(5, 3, size, stride=size).double(), th.rand(4, 5, *sides).double()
    th.testing.assert_close(grow_pixels(convolution, pixels), convolution(pixels))


def test_impala_rectifies_before_and_after_its_linear_layer():
    network, images = ImpalaCNN((3, 16, 20), (4, 5), 7), th.randn(2, 3, 16, 20)
    flat = network.convolutions(images).flatten(1)
    th.testing.assert_close(network(images), network.linear(flat.clamp(min=0)).clamp(min=0))
    assert (flat < 0).any() and (network.linear(flat) < 0).any()


def test_the_world_model_repeats_the_border_of_what_it_pads():
    world_model, past, met = WorldModel((2, 5, 7), 2, 3, 4), th.randn(2, 2, 2, 5, 7), []
    world_model.output[0].register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))
    world_model(past, th.randn(2, 3))
    expected = F.pad(past.flatten(1, 2), world_model.padding, mode="replicate")
    assert any(world_model.padding) and th.equal(met[0][:, 4:], expected)


def test_the_narrow_layer_of_drqs_policy_is_normalized_and_bounded():
    layers = [type(layer).__name__ for layer in DrQLatentPolicy((4, 8, 8), 6)]
    assert layers == ["Flatten", "Linear", "LayerNorm", "Tanh", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_the_world_model_keeps_the_largest_of_four_pixels_above_0():
    world_model, outputs, inputs = WorldModel((2, 8, 8), 1, 3, 4), [], []
    world_model.down_blocks[0][-1].register_forward_hook(lambda module, _, output: outputs.append(output))
    world_model.down_blocks[1][0].register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    world_model(th.randn(2, 1, 2, 8, 8), th.randn(2, 3))
    assert th.equal(inputs[0], outputs[0].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).clamp(min=0))


def test_the_world_model_is_linear_where_it_ends_after_a_relu():
    last = [type(layer).__name__ for layer in WorldModel((2, 8, 8), 1, 3, 4).output]
    assert last == ["Conv2d", "ResidualBlock", "ReLU", "Conv2d"]


def test_all_of_the_world_model_learns():
    assert all(parameter.requires_grad for parameter in WorldModel((2, 8, 8), 1, 3, 4).parameters())


def test_the_convolutions_of_the_encoder_have_a_relu_between_them():
    assert [type(layer).__name__ for layer in Encoder((3, 8, 8), [4, 4], (2, 1)).net] == ["Conv2d", "ReLU", "Conv2d"]


def test_each_part_of_the_world_model_has_a_say():
    world_model = WorldModel((2, 8, 8), 1, 3, 4)
    world_model(th.randn(4, 1, 2, 8, 8), th.randn(4, 3)).square().sum().backward()
    assert [name for name, parameter in world_model.named_parameters() if parameter.grad is None] == []


def test_maps_on_the_world_models_way_up_are_not_negative():
    world_model, met = WorldModel((2, 8, 8), 1, 3, 4), []
    world_model.output[0].register_forward_pre_hook(lambda _, inputs: met.extend(inputs))
    world_model(th.randn(4, 1, 2, 8, 8), th.randn(4, 3))
    assert (met[0][:, :4] >= 0).all() and (met[0][:, :4] > 0).any()


def test_pis_latent_action_has_no_bounds():
    latent_policy = LatentPolicy((4, 8, 8), 6, (4,), 8)
    latent_policy.head.bias.data.fill_(5.0)
    assert (latent_policy(th.randn(2, 4, 8, 8)) > 1).all()
