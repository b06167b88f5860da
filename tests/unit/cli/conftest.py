"""What tests of the commands share."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from dovetail import zoo
from dovetail.engine.layer_times import Ratio
from dovetail.fitting.surveys import Survey, in_values, stored_bytes
from dovetail.program.counts import count
from dovetail.program.layers import layer_shapes
from dovetail.program.lower import lower


@pytest.fixture
def surveys(tmp_path, monkeypatch):
    """A folder with trained weights; of each survey what was asked of it."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_file(zoo.build("resnet8", in_channels=1, width=0.25).state_dict(), "t.safetensors")
    asked = []

    def survey(model, images, *, int8, threads, peers):
        asked.append({"int8": int8, "threads": threads, "peers": peers})
        program = lower(model, torch.from_numpy(images[:1]))
        shapes = tuple(layer_shapes(program))
        layers = {name: 1e-9 * shape.macs for shape in shapes for name in shape.layers}
        sizes = stored_bytes(in_values(program, images, int8=int8)), stored_bytes(program), float(count(program).macs)
        return Survey(shapes, layers, 0.0, 1.0, sum(layers.values()), "somebody", 1e-3, threads or 2, int8, *sizes)

    class Timer:
        """Every format takes half of the dense layer's time."""

        def __init__(self, *_, **__):
            pass

        def ratio(self, spec):
            return Ratio(0.5, 0.5, 0.5, ("a kernel",))

    monkeypatch.setattr("dovetail.fitting.survey", survey)
    monkeypatch.setattr("dovetail.fitting.prices.LayerTimer", Timer)
    return asked
