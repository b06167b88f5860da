"""Operands rounded to codes while a network trains: how far these reach is learnt from batches of every epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from dovetail.methods.rounding import Rounding, reach_of
from dovetail.program.calibrate import Rule
from dovetail.program.quantize import Range


class Operands:
    """What a network's layers read is rounded as in int8 within every forward pass, from `watch` until `release`.

    A method calls `before_epoch` and `after_epoch` as it is called itself, and computes its loss within `observing`.
    A resumed training hands `load_state_dict` what `state_dict` gave, and watches anew.

    Attributes:
        rule: how far codes reach; see `program.calibrate`.
        observe: batches at the beginning of every epoch from which the reach is taken, the mean of what the rule says
            of each. Operands are real numbers until the first reach is known.
    """

    def __init__(self, rule: Rule, observe: int = 4) -> None:
        self.rule, self.observe = rule, observe
        self._rounding = Rounding()
        self._sums: list[Range] = []
        self._seen, self._observed = 0, -1
        self._hooks: list[Any] = []

    def watch(self, model: nn.Module, *, floating: Iterable[str] = (), whole: Iterable[str] = ()) -> None:
        """Round from now on.

        Args:
            model: in whose forward passes.
            floating: layers, by name, that stay in floating point.
            whole: layers whose weights are whole numbers as they are, and so are not rounded.
        """
        rounding = self._rounding
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: rounding.begin()),
            model.register_forward_hook(lambda *_: rounding.finish(), always_call=True),
        ]
        for names, count in ((floating, rounding.pause), (whole, rounding.spare)):
            for name in names:
                self._hooks += _around(model.get_submodule(name), count)

    def release(self) -> None:
        """Round nothing any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def before_epoch(self, epoch: int) -> None:
        """Observe anew, unless this is the epoch that was observed last."""
        if epoch != self._observed:
            self._observed, self._seen, self._sums = epoch, 0, []

    @contextlib.contextmanager
    def observing(self) -> Iterator[None]:
        """Within: a batch of training, from which the reach is taken while the epoch is young enough."""
        if self._seen >= self.observe:
            yield
            return
        self._rounding.watch = self._note
        try:
            yield
        finally:
            self._rounding.watch = None
            self._seen += 1
            if self._seen == self.observe:
                self._take()

    def after_epoch(self) -> None:
        """Take the reach of codes from an epoch that was too short to observe all that was wanted."""
        if self._seen < self.observe:
            self._take()

    def state_dict(self) -> dict[str, Any]:
        """The reach of codes, and the observations of which it becomes the next."""
        reaches, sums = ([list(pair) for pair in pairs] for pairs in (self._rounding.reaches, self._sums))
        return {"reaches": reaches, "sums": sums, "seen": self._seen, "observed": self._observed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._rounding.reaches, self._sums = (_pairs(state[name]) for name in ("reaches", "sums"))
        self._seen, self._observed = int(state["seen"]), int(state["observed"])

    def _note(self, site: int, x: Tensor) -> None:
        """Add what one batch says of the reach at a site."""
        low, high = reach_of(x, self.rule, np.random.default_rng((self._observed, self._seen, site)))
        before = self._sums[site] if site < len(self._sums) else (0.0, 0.0)
        self._sums[site:] = [(before[0] + low, before[1] + high), *self._sums[site + 1 :]]

    def _take(self) -> None:
        """Round from now on as the observations say."""
        if self._seen:
            self._rounding.reaches = [(low / self._seen, high / self._seen) for low, high in self._sums]


def _around(layer: nn.Module, count: Callable[[int], None]) -> list[Any]:
    """Hooks that count 1 while the layer runs."""
    return [
        layer.register_forward_pre_hook(lambda *_: count(1)),
        layer.register_forward_hook(lambda *_: count(-1), always_call=True),
    ]


def _pairs(pairs: Any) -> list[Range]:
    return [(float(low), float(high)) for low, high in pairs]
