"""Fingerprints: equal for the same layer on the same machine, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accelerator_cases import masked_layer
from dovetail.accelerators import ACCELERGY45, machine_named
from dovetail.accelerators.identity import fingerprint, of_workload

WEIGHT, INPUT = np.ones((2, 3, 3, 3)), np.arange(75.0).reshape(1, 3, 5, 5)
LAYER = masked_layer(WEIGHT, INPUT)


def test_the_same_layer_has_the_same_digest_whatever_its_name():
    assert of_workload(masked_layer(WEIGHT.copy(), INPUT.copy())) == of_workload(LAYER)
    assert of_workload(replace(LAYER, name="other")) == of_workload(LAYER)


@pytest.mark.parametrize(
    "other",
    [
        masked_layer(WEIGHT * 2, INPUT),
        masked_layer(WEIGHT, INPUT + 1),
        masked_layer(WEIGHT, INPUT.astype(np.float32)),
        masked_layer(WEIGHT, INPUT > 0),
        masked_layer(WEIGHT, INPUT, padding=(1, 1, 1, 1)),
        masked_layer(WEIGHT, INPUT, stride=(2, 2)),
        masked_layer(WEIGHT, INPUT, zero=1),
        masked_layer(WEIGHT, INPUT, output_mask=np.ones((1, 2, 3, 3), np.bool_)),
        LAYER.recomposed(),
    ],
)
def test_another_layer_has_another_digest(other):
    assert of_workload(other) != of_workload(LAYER)


def test_every_parameter_of_the_machine_counts():
    machine, digest = machine_named("sparten"), of_workload(LAYER)
    marks = {
        fingerprint(machine, digest),
        fingerprint(machine_named("scnn"), digest),
        fingerprint(replace(machine, fill=5), digest),
        fingerprint(replace(machine, costs=ACCELERGY45), digest),
        fingerprint(replace(machine, costs=replace(machine.costs, leakage=0.1)), digest),
        fingerprint(machine, "name", digest),
    }
    assert len(marks) == 6
    assert fingerprint(replace(machine), digest) in marks
