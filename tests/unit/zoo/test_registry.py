"""Names, options, and a user's own callables."""

from __future__ import annotations

import pytest
from torch import nn

from dovetail import zoo
from dovetail.errors import RecipeError


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"resnet21.*resnet20.*package\.module:callable"):
        zoo.build("resnet21")


@pytest.mark.parametrize("name", ["ResNet-20", "resnet_20", "RESNET20"])
def test_spelling_is_forgiven(name):
    assert len(zoo.build(name, width=0.5).layer1) == 3


def test_torchvision_spellings_are_found():
    assert zoo.NETWORKS["mobilenetv2"].builder is zoo.find("mobilenet_v2").builder
    assert zoo.NETWORKS["squeezenet10"].builder is zoo.find("squeezenet1_0").builder


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"depth.*width, in_channels, classes"):
        zoo.build("resnet20", depth=18)


def test_options_and_their_defaults_can_be_asked():
    assert zoo.NETWORKS["resnet56"].options() == {"width": 1.0, "in_channels": 3, "classes": 10}


SOURCE = """
from torch import nn
def make(width=4, *, classes=3):
    return nn.Linear(width, classes)
class Net(nn.Linear):
    def __init__(self, classes=2):
        super().__init__(1, classes)
    @classmethod
    def wide(cls, classes=2):
        return cls(classes * 100)
number = 5
def wrong():
    return "a string"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's package in the working folder; its name is unique, because modules stay imported."""
    name = f"user_nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "nets.py").write_text(SOURCE)
    (tmp_path / name / "broken.py").write_text("import no_such_dependency_of_mine")
    (tmp_path / name / "syntax.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])
    return name


def test_a_callable_of_the_users_serves_as_a_network(package):
    assert zoo.build(f"{package}.nets:make").out_features == 3
    assert zoo.build(f"{package}.nets:make", width=9, classes=8).weight.shape == (8, 9)


def test_a_class_and_its_methods_serve_too(package):
    assert isinstance(zoo.build(f"{package}.nets:Net", classes=4), nn.Linear)
    assert zoo.build(f"{package}.nets:Net.wide").out_features == 200


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{}.nets:absent", "no 'absent'"),
        ("{}.nets:number", "not a callable"),
        ("{}.nets:wrong", "returned a str"),
        ("{}.missing:make", r"no module '.*missing'"),
        ("{}.broken:make", "no_such_dependency_of_mine"),
        ("{}.syntax:make", "SyntaxError"),
        ("{}.nets:", r"package\.module:callable"),
        (":make", r"package\.module:callable"),
    ],
)
def test_what_is_wrong_with_a_users_callable_is_said(package, name, told):
    with pytest.raises(RecipeError, match=told):
        zoo.build(name.format(package))


def test_options_that_a_users_callable_lacks_are_named(package):
    with pytest.raises(RecipeError, match="depth"):
        zoo.build(f"{package}.nets:make", depth=3)
