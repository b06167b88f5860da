"""Loading weights: what is tolerated, what is refused, and what the published ones reach."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail import zoo
from dovetail.errors import DataError, RecipeError
from dovetail.training.data import Images, Loader
from dovetail.zoo.data import open_data


@pytest.fixture
def model():
    return zoo.build("resnet8", in_channels=1)


def saved(state, tmp_path, name="net.safetensors"):
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name)
    return tmp_path / name


def test_a_file_without_batch_counts_loads(model, tmp_path):
    state = {
        key: torch.rand_like(value.float()) for key, value in model.state_dict().items() if "num_batches" not in key
    }
    zoo.load_weights(model, saved(state, tmp_path))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_half_precision_becomes_the_models_type(model, tmp_path):
    state = {key: value.half() if key.endswith("conv1.weight") else value for key, value in model.state_dict().items()}
    zoo.load_weights(model, saved(state, tmp_path))
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, state["conv1.weight"].float())


def changed(state, key, value):
    return {**state, key: value} if value is not None else {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("linear.bias", None, "missing: linear.bias"),
        ("extra.weight", torch.zeros(1), "unexpected: extra.weight"),
        ("linear.weight", torch.zeros(10, 63), r"shape: linear.weight \(10, 63\) where the model has \(10, 64\)"),
        ("bn1.weight", torch.full((16,), float("nan")), "NaN or Inf: bn1.weight"),
        ("bn1.weight", torch.full((16,), float("inf")), "NaN or Inf: bn1.weight"),
    ],
)
def test_differences_are_named_and_nothing_is_loaded(model, tmp_path, key, value, told):
    other = {k: v + 1 for k, v in model.state_dict().items()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(DataError, match=told):
        zoo.load_weights(model, saved(changed(other, key, value), tmp_path))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_bad_files_are_refused(model, tmp_path):
    good = saved(model.state_dict(), tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save(model.state_dict(), tmp_path / "pickle.pth")
    for name, told in [("cut", "truncated"), ("text", "truncated"), ("absent", "do not exist")]:
        with pytest.raises(DataError, match=told):
            zoo.load_weights(model, tmp_path / f"{name}.safetensors")
    with pytest.raises(DataError, match="nothing is ever unpickled"):
        zoo.load_weights(model, tmp_path / "pickle.pth")


@pytest.mark.parametrize("stored", [{}, {"scale": torch.ones(3)}], ids=["no scale", "short scale"])
def test_int8_weights_need_their_scales(tmp_path, stored):
    state = {"weight": torch.ones(2, 4, dtype=torch.int8), "bias": torch.zeros(2)}
    state = {f"0.{key}": value for key, value in {**state, **stored}.items()}
    with pytest.raises(DataError, match="scale per output channel"):
        zoo.load_weights(torch.nn.Sequential(torch.nn.Linear(4, 2)), saved(state, tmp_path))


def test_int8_weights_are_scaled_per_output_channel(tmp_path):
    weight = torch.arange(-4, 4, dtype=torch.int8).view(2, 4)
    state = {"0.weight": weight, "0.scale": torch.tensor([0.5, 2.0]), "0.bias": torch.zeros(2)}
    model = torch.nn.Sequential(torch.nn.Linear(4, 2))
    zoo.load_weights(model, saved(state, tmp_path))
    assert model[0].weight.tolist() == [[-2.0, -1.5, -1.0, -0.5], [0.0, 2.0, 4.0, 6.0]]


def learnt(model):
    """The model as if it had been trained: every number is one of its own."""
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 - 0.5)
    return model


def test_int8_weights_come_back_to_the_nearest_code(model, tmp_path):
    want = learnt(model).state_dict()
    file = zoo.save_int8(model, tmp_path / "net.safetensors")
    other = zoo.build("resnet8", in_channels=1)
    zoo.load_weights(other, file)
    for key, found in other.state_dict().items():
        if key.endswith(("conv1.weight", "conv2.weight", "linear.weight")):
            largest = want[key].abs().flatten(1).amax(dim=1).view(-1, *[1] * (found.dim() - 1))
            assert ((found - want[key]).abs() <= largest / 127 / 2 * 1.001).all()
            assert torch.isclose(found.abs().flatten(1).amax(dim=1), largest.flatten()).all()
        elif not key.endswith("num_batches_tracked"):
            assert torch.equal(found, want[key]), key


def test_int8_weights_take_a_quarter_of_the_bytes_and_are_written_again_to_the_same(model, tmp_path):
    file = zoo.save_int8(learnt(model), tmp_path / "net.safetensors")
    stored, kinds = load_file(file), (torch.nn.Conv2d, torch.nn.Linear)
    layers = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, kinds)}
    assert {key for key in stored if stored[key].dtype == torch.int8} == layers
    assert not [key for key in stored if key.endswith("num_batches_tracked")]
    assert file.stat().st_size < 0.35 * saved(model.state_dict(), tmp_path, "whole.safetensors").stat().st_size
    zoo.load_weights(model, file)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    zoo.load_weights(model, zoo.save_int8(model.to(memory_format=torch.channels_last), tmp_path / "again.safetensors"))
    assert all(torch.allclose(value, before[key], rtol=1e-6, atol=0) for key, value in model.state_dict().items())


def test_a_channel_of_zeros_has_scale_one_and_a_layer_alone_can_be_saved(tmp_path):
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[:] = torch.tensor([[0.0, 0.0, 0.0], [2.54, -1.27, 0.004]])
    file = zoo.save_int8(layer, tmp_path / "net.safetensors")
    assert {key: value.tolist() for key, value in load_file(file).items() if key != "bias"} == {
        "weight": [[0, 0, 0], [127, -64, 0]],
        ".scale": [1.0, pytest.approx(0.02)],
    }
    zoo.load_weights(layer, file)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.0, 0.0, 0.0], [2.54, -1.28, 0.0]]))


def test_int8_weights_are_not_written_where_there_is_no_folder(model, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        zoo.save_int8(model, tmp_path / "nowhere/net.safetensors")


def test_code_books_are_looked_up(tmp_path):
    code = torch.tensor([[0, 1, 2], [2, 2, 0]], dtype=torch.uint8)
    state = {"0.code": code, "0.codebook": torch.tensor([0.0, 0.25, -3.0]), "0.bias": torch.ones(2)}
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    zoo.load_weights(model, saved(state, tmp_path))
    assert model[0].weight.tolist() == [[0.0, 0.25, -3.0], [-3.0, -3.0, 0.0]]
    with pytest.raises(DataError, match="covers its indices"):
        zoo.load_weights(model, saved({**state, "0.codebook": torch.zeros(2)}, tmp_path))


def test_weights_are_found_under_the_root_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "resnet20_cifar10.safetensors"
    file.write_bytes(b"")
    for name in ("resnet20", "ResNet-20", "resnet20_cifar10", "resnet20_cifar10.safetensors"):
        assert zoo.weights_path(name, tmp_path) == file
    assert zoo.weights_path(str(file)) == file
    monkeypatch.setenv("DOVETAIL_DATA", str(tmp_path))
    assert zoo.weights_path("resnet20") == file


def test_missing_weights_say_what_to_set(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"resnet56_cifar10.*--data.*DOVETAIL_DATA"):
        zoo.weights_path("resnet56", tmp_path)
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    with pytest.raises(DataError, match="DOVETAIL_DATA"):
        zoo.weights_path("resnet56")
    with pytest.raises(DataError, match="does not exist"):
        zoo.weights_path("resnet56", tmp_path / "nowhere")


def test_unknown_weights_list_the_known_ones(tmp_path):
    with pytest.raises(RecipeError, match="resnet20_cifar10"):
        zoo.weights_path("resnet34", tmp_path)
    with pytest.raises(RecipeError, match=r"resnet34.*none"):
        zoo.pretrained("resnet34", "cifar10", tmp_path)
    with pytest.raises(RecipeError, match=r"resnet20.*cifar10"):
        zoo.pretrained("resnet20", "mnist", tmp_path)


@pytest.mark.parametrize(
    ("network", "data", "mean"),
    [
        ("resnet56", "cifar10", (0.485, 0.456, 0.406)),
        ("ResNet-20", "CIFAR-10", (0.485, 0.456, 0.406)),
        ("resnet18", "cifar10", (0.4914, 0.4822, 0.4465)),
        ("vgg16_bn", "cifar10", (0.4914, 0.4822, 0.4465)),
        ("resnet20", "mnist", (0.1307,)),
        ("mobilenetv2", "imagenet", (0.5, 0.5, 0.5)),
        ("resnet50", "a folder", (0.485, 0.456, 0.406)),
        ("mine.nets:make", "fashion-mnist", (0.2860,)),
    ],
)
def test_normalisation_belongs_to_the_pair(network, data, mean):
    assert zoo.normalisation(network, data).mean == mean


def correct(model, images, network, data, batch=250):
    mean, std = zoo.normalisation(network, data)
    loader = Loader(images, batch, mean=mean, std=std)
    with torch.inference_mode():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "hits"), [("resnet20", 9173), ("resnet56", 9339), ("resnet18", 9286)])
def test_published_cifar_weights_reach_their_accuracy_exactly(data_root, data_file, name, hits):
    data_file("cifar10_test.webp")
    data_file(f"{name}_cifar10.safetensors")
    model = zoo.pretrained(name, root=data_root).to(memory_format=torch.channels_last)
    assert correct(model, open_data("cifar10", data_root).test, name, "cifar10") == hits


@pytest.mark.data
def test_the_published_squeezenet_is_sparse_where_its_book_says_zero(data_file):
    stored = load_file(data_file("squeezenet10_deepcompression.safetensors"))
    model = zoo.build("squeezenet10", final_padding=1)
    zoo.load_weights(model, data_file("squeezenet10_deepcompression.safetensors"))
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.dim() == 4) == 415_921
    expected = stored["fire4.conv3x3_2.codebook"][stored["fire4.conv3x3_2.code"].long()]
    assert torch.equal(model.features[5].expand3x3.weight, expected)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "hits", "side"), [("mobilenetv2", 891, 224), ("squeezenet10", 616, 227)])
def test_imagenet_weights_reach_what_was_measured_on_the_samples(data_root, data_file, name, hits, side):
    with zipfile.ZipFile(data_file("imagenet_samples_256.zip")) as archive:
        images = np.stack([centre(archive.read(each), side) for each in sorted(archive.namelist())])
    model = zoo.pretrained(name, root=data_root).to(memory_format=torch.channels_last)
    samples = Images(images, np.arange(1000), 1000)
    assert abs(correct(model, samples, name, "imagenet", batch=50) - hits) <= 1


def centre(data, side):
    image = pytest.importorskip("PIL.Image")
    start = (256 - side) // 2
    pixels = np.asarray(image.open(io.BytesIO(data)).convert("RGB"))
    return pixels[start : start + side, start : start + side]
