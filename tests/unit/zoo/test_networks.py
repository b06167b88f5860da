"""The reference networks: parameter counts of the papers and checkpoints, key names, shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail import zoo
from dovetail.errors import RecipeError
from dovetail.zoo.layers import scaled


def parameters(name, **options):
    """Counted on the meta device: no memory, no initialisation."""
    with torch.device("meta"):
        return sum(p.numel() for p in zoo.build(name, **options).parameters())


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet20", {}, 269_722),
        ("resnet32", {}, 464_154),
        ("resnet44", {}, 658_586),
        ("resnet56", {}, 853_018),
        ("resnet18", {}, 11_689_512),
        ("resnet18", {"stem": "cifar", "classes": 10}, 11_173_962),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        ("vgg16_bn", {}, 138_365_992),
        ("vgg16_bn", {"classifier": "cifar", "classes": 10}, 14_728_266),
        ("mobilenetv2", {}, 3_504_872),
        ("mobilenetv2", {"folded": True}, 3_487_816),
        ("squeezenet10", {}, 1_248_424),
        ("squeezenet10", {"final_padding": 1}, 1_248_424),
        ("densenet121", {}, 7_978_856),
        ("densenet201", {}, 20_013_928),
        ("lenet300100", {}, 266_610),
        ("lenet5", {}, 431_080),
        ("wrn164", {}, 2_748_890),
    ],
    ids=str,
)
def test_parameters_are_those_of_the_published_networks(name, options, count):
    assert parameters(name, **options) == count


def test_parameters_of_resnet8_by_hand():
    def block(inputs, outputs):
        return 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs + 2 * outputs

    stem, head = 9 * 1 * 16 + 2 * 16, 64 * 10 + 10
    assert parameters("resnet8", in_channels=1) == stem + block(16, 16) + block(16, 32) + block(32, 64) + head


def test_parameters_of_the_mlps_by_hand():
    assert parameters("mlp512") == 784 * 512 + 512 + 512 * 10 + 10
    assert parameters("mlp_digits") == 64 * 32 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10


def test_parameters_of_the_lstm_by_hand():
    assert parameters("lstm_digits") == 4 * (32 * 128 + 128 * 128 + 128) + 128 * 10 + 10


SMALL = {
    "mlp": {"size": 32, "hidden": [7]},
    "lenet300100": {"size": 32},
    "mlp512": {"size": [32, 32]},
    "mlp_digits": {"size": (32, 32)},
    "lenet5": {"size": 32},
    "lstm_digits": {"size": 32, "hidden": 8},
    "resnet18": {"width": 0.125},
    "resnet34": {"width": 0.125},
    "resnet50": {"width": 0.125},
    "vgg16_bn": {"width": 0.125, "classifier": "cifar"},
    "mobilenetv2": {"width": 0.35},
    "wrn164": {"width": 0.25},
    "densenet121": {"width": 0.25},
    "densenet201": {"width": 0.25},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(zoo.NETWORKS))
def test_every_network_maps_images_to_class_scores(name, channels):
    model = zoo.build(name, in_channels=channels, classes=7, **SMALL.get(name, {})).eval()
    with torch.inference_mode():
        scores = model(torch.randn(2, channels, 32, 32))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()
    assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"stem": "cifar", "width": 0.125}),
        ("mobilenetv2", {"folded": True, "padding": "tensorflow", "width": 0.35}),
        ("vgg16_bn", {"classifier": "imagenet", "width": 0.0625}),
        ("squeezenet10", {"final_padding": 1}),
        ("resnet20", {"width": 0.25}),
        ("resnet56", {"width": 1.5}),
        ("mlp_digits", {"in_channels": 3, "size": [32, 32]}),
        ("lenet5", {"in_channels": 3, "size": 32}),
        ("lstm_digits", {"in_channels": 3, "size": 32, "hidden": 6}),
    ],
)
def test_variants_run_and_train(name, options):
    model = zoo.build(name, classes=5, **options)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


KEYS = {
    "resnet20": ["conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"],
    "resnet18": ["conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias", "fc.weight"],
    "resnet50": ["layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer4.2.bn3.weight", "fc.bias"],
    "vgg16_bn": ["features.0.weight", "features.1.running_mean", "features.40.weight", "classifier.6.weight"],
    "mobilenetv2": [
        "features.0.0.weight",
        "features.1.conv.1.weight",
        "features.17.conv.3.running_mean",
        "features.18.1.bias",
        "classifier.1.weight",
    ],
    "squeezenet10": ["features.0.bias", "features.3.squeeze.weight", "features.12.expand3x3.bias", "classifier.1.bias"],
    "lenet300100": ["0.weight", "2.bias", "4.weight"],
    "lstm_digits": ["lstm.x_i.bias", "lstm.h_o.weight", "linear.weight"],
    "lenet5": ["conv1.weight", "conv2.bias", "fc1.weight", "fc2.bias"],
    "densenet121": [
        "features.conv0.weight",
        "features.norm0.running_var",
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock3.denselayer24.conv1.weight",
        "features.denseblock4.denselayer16.norm2.bias",
        "features.denseblock4.denselayer16.conv2.weight",
        "features.transition3.norm.running_mean",
        "features.transition3.conv.weight",
        "features.norm5.bias",
        "classifier.bias",
    ],
}


@pytest.mark.parametrize("name", list(KEYS))
def test_keys_are_those_of_the_published_checkpoints(name):
    with torch.device("meta"):
        assert set(KEYS[name]) <= set(zoo.build(name).state_dict())


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9)])
def test_a_cifar_resnet_has_6n_plus_2_layers(depth, blocks):
    with torch.device("meta"):
        keys = zoo.build(f"resnet{depth}").state_dict()
    assert sum(key.endswith("conv1.weight") for key in keys) == 1 + 3 * blocks
    assert not any("shortcut" in key or "downsample" in key for key in keys)


def test_option_a_shortcut_is_strided_and_padded_with_zero_channels():
    block = zoo.build("resnet8").layer2[0]
    x = torch.randn(2, 16, 9, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32 // 4, 32 // 4))
    assert torch.equal(block.shortcut(x), expected)


def test_a_dense_layer_adds_its_channels_behind_all_before_it():
    block = zoo.build("densenet121", width=0.25).features.denseblock1.eval()
    x = torch.randn(2, 16, 5, 6)
    first = block.denselayer1(x)
    second = block.denselayer2(torch.cat([x, first], 1))
    got = block(x)
    assert got.shape[1] == 16 + 6 * 8
    assert torch.equal(got[:, :32], torch.cat([x, first, second], 1))


def test_norms_of_a_dense_layer_come_before_its_convolutions():
    layer = zoo.build("densenet121", width=0.25).features.denseblock1.denselayer1.eval()
    nn.init.constant_(layer.norm1.bias, -100.0)  # nothing passes the first ReLU
    shifted = F.relu(layer.norm2(torch.zeros(1, 32, 4, 4)))
    assert torch.equal(layer(torch.randn(1, 16, 4, 4)), layer.conv2(shifted))


def test_resnet50_strides_in_the_3x3():
    with torch.device("meta"):
        block = zoo.build("resnet50").layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_the_cifar_stem_keeps_the_resolution():
    seen = []
    for stem in ("imagenet", "cifar"):
        model = zoo.build("resnet18", stem=stem, width=0.125).eval()
        model.layer1.register_forward_hook(lambda *call: seen.append(call[2].shape[-1]))
        model(torch.zeros(1, 3, 32, 32))
    assert seen == [8, 32]


def test_tensorflow_padding_equals_a_one_sided_pad():
    model = zoo.build("mobilenetv2", folded=True, padding="tensorflow", width=0.35).eval()
    stem = model.features[0]
    x = torch.randn(1, 3, 16, 16)
    by_hand = F.relu6(F.conv2d(F.pad(x, (0, 1, 0, 1)), stem[0].weight, stem[0].bias, 2))
    assert torch.equal(stem(x), by_hand)
    assert stem(x).shape[-2:] == (8, 8)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1, 64), (20, 1.0, 20), (64, 0.5, 32), (16, 0.25, 8), (64, 0.7, 48), (64, 0.01, 8), (16, 1.5, 24)],
)
def test_width_rounds_to_multiples_of_eight_except_at_one(channels, width, expected):
    assert scaled(channels, width) == expected


def test_width_scales_every_stage():
    with torch.device("meta"):
        narrow = zoo.build("resnet56", width=0.5)
    assert [narrow.layer1[0].conv1.out_channels, narrow.layer2[0].conv1.out_channels, narrow.linear.in_features] == [
        8,
        16,
        32,
    ]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"stem": "imgnet"}),
        ("vgg16_bn", {"classifier": "none"}),
        ("mobilenetv2", {"padding": "valid"}),
        ("resnet20", {"width": 0}),
        ("resnet20", {"width": "half"}),
        ("resnet20", {"width": float("nan")}),
        ("resnet20", {"classes": 0}),
        ("squeezenet10", {"in_channels": -1}),
        ("lenet300100", {"size": 0}),
        ("mlp512", {"size": [28, 28, 1]}),
        ("mlp_digits", {"size": "64x32"}),
        ("lenet5", {"size": 15}),
        ("lstm_digits", {"hidden": 0}),
    ],
)
def test_bad_option_values_are_named(name, options):
    (option,) = options
    with pytest.raises(RecipeError, match=option):
        zoo.build(name, **options)
