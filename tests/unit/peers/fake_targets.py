"""Targets of known behaviour, loaded in real child processes: `load` is what `dovetail.peers.child` calls."""

import json
import os
import time
from pathlib import Path

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers.peer import Target


class Fake:
    """Sums each image; `milliseconds` long, with a planned misdeed."""

    def __init__(self, milliseconds=0.0, error=0.0, die_at=None, hang_at=None, hang=60, log=None, mark=""):
        self.milliseconds, self.error = milliseconds, error
        self.die_at, self.hang_at, self.hang = die_at, hang_at, hang
        self.log, self.mark = log, mark
        self.count = 0

    def bind(self, x):
        self.x = x

    def run(self):
        self.count += 1
        if self.count == self.die_at:
            os._exit(7)
        if self.count == self.hang_at:
            time.sleep(self.hang)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{self.mark}\n")
        time.sleep(self.milliseconds / 1e3)

    def outputs(self):
        return (truth(self.x) + np.float32(self.error),)


def truth(x):
    total = x.reshape(len(x), -1).sum(1)
    return np.stack([total, -total], 1).astype(np.float32)


def load(threads, **behaviour):
    if threads == behaviour.pop("refuse_threads", None) or behaviour.pop("refuse", False):
        raise PeerError("this machine is not to my liking")
    if behaviour.pop("raise", False):
        raise ZeroDivisionError("one line\nand another")
    if behaviour.pop("hang_threads", threads) != threads:
        behaviour.pop("hang_at")
    if behaviour.pop("environment", None):
        raise PeerError(json.dumps({k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}))
    return Fake(**behaviour)


def fake(name, *, dtype="f32", reference="original", **behaviour):
    return Target(name, dtype, "fake_targets", behaviour, reference)
