"""The networks and images of one race: what is exported to whom, and what everybody is asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.errors import DovetailError, PeerError
from dovetail.peers import agreement, engine
from dovetail.peers.compare import BESIDE, DENSE, OURS, Questions
from dovetail.peers.peer import Images, Peer, Source, Target
from dovetail.peers.samples import Samples, filled, gather, padded
from dovetail.peers.schedule import Report
from dovetail.program.program import BATCH, Program

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dovetail.formats.layer import Appearance

CALIBRATION = 300
AT_ONCE = 30
CHECKED = 8
TESTED = 10_000
TESTED_OF_DATA = 2_000
SAME, FACTORED, FUSED = "-same", "-factored", "-fused"
Candidates = Iterator[tuple[str, Callable[[], Target]]]


@dataclass(frozen=True)
class _Form:
    """Our network as peers get it, and what joins their names."""

    suffix: str
    model: nn.Module
    appearance: Appearance = "train"


@dataclass(frozen=True)
class Entry:
    """The networks and images of one race.

    Attributes:
        program: ours.
        original: a copy in evaluation mode on the CPU.
        compressed: the same network as a torch module, or None.
        example: `(batch, ...)` float32.
        calibration: for int8, or None.
        test: judged on, or None.
        beside: another network of ours that takes part, with its name, or None.
    """

    program: Program
    original: nn.Module
    compressed: nn.Module | None
    example: Images
    calibration: Samples | None
    test: Samples | None
    beside: tuple[str, Program] | None = None

    @classmethod
    def open(
        cls,
        program: Program | str | Path,
        original: nn.Module,
        compressed: nn.Module | None,
        *,
        data: Iterable[Any] | None,
        test: Iterable[Any] | None,
        example: Tensor | Images | None,
        batch: int,
        beside: tuple[str, Program] | None = None,
    ) -> Entry:
        """Read the data once; a default for everything that was not given."""
        program = _opened(program)
        seen = None if data is None else gather(data, CALIBRATION + (TESTED_OF_DATA if test is None else 0))
        calibration = None if seen is None else seen.part(0, CALIBRATION)
        judged = seen.part(CALIBRATION, len(seen)) if test is None and seen is not None else None
        judged = gather(test, TESTED) if test is not None else judged
        images = example if example is not None else _images(program, calibration)
        return cls(
            program=program,
            original=_frozen(original),
            compressed=None if compressed is None else _frozen(compressed),
            example=filled(np.asarray(images, dtype=np.float32), batch),
            calibration=calibration,
            test=judged if judged is not None and len(judged) else None,
            beside=beside,
        )

    @property
    def batch(self) -> int:
        """Images per run."""
        return len(self.example)

    @cached_property
    def test_truth(self) -> tuple[np.ndarray, ...]:
        """The original's outputs on the padded test images; empty without any."""
        return () if self.test is None else _outputs(self.original, padded(self.test.images, self.batch))

    @property
    def dense_accuracy(self) -> float | None:
        """Of the original torch model, in percent; None for a race that is about time only."""
        if self.test is None or self.test.labels is None:
            return None
        return agreement.accuracy(self.test_truth, self.test.labels)

    @property
    def tested(self) -> int | None:
        """Images that are judged on; None where there are none."""
        return None if self.test is None else len(self.test)

    def questions(self) -> Questions:
        """What every target is asked before it is timed."""
        from dovetail.program.reference import run

        some = [self.example] if self.calibration is None else [self.example, self.calibration.images[:CHECKED]]
        check = padded(np.concatenate(some)[: max(CHECKED, self.batch)], self.batch)
        own = {"compressed": self.program} | ({"beside": self.beside[1]} if self.beside else {})
        found = {name: run(program, check) for name, program in own.items()}
        truth = {name: y if isinstance(y, tuple) else (y,) for name, y in found.items()}
        truth["original"] = _outputs(self.original, check)
        if self.test is None:
            return Questions(self.example, check, truth)
        return Questions(
            self.example, check, truth, padded(self.test.images, self.batch), self.test.labels, self.test_truth
        )

    def targets(self, peers: Sequence[Peer], folder: Path, report: Report) -> tuple[list[Target], dict[str, str]]:
        """Everybody who can take part, ours first; and why the others cannot."""
        found = [engine.target(self.program, folder, OURS, "compressed")]
        absent: dict[str, str] = {}
        for name, enter in self._candidates(peers, engine.values_of(self.program) | {found[0].dtype}, folder):
            report(f"exporting {name}")
            try:
                found.append(enter())
            except DovetailError as error:
                absent[name] = str(error).removeprefix(f"{name}: ")
        return found, absent

    def _candidates(self, peers: Sequence[Peer], dtypes: set[str], folder: Path) -> Candidates:
        """Ours dense and beside, the peers on the original and, for `vs_same`, those of our types on the compressed."""
        yield DENSE, partial(self._own_dense, folder)
        if self.beside is not None:
            label, program = f"{BESIDE}-{self.beside[0]}", self.beside[1]
            yield label, partial(engine.target, program, folder, label, "beside")
        for peer in peers:
            yield peer.name, partial(peer.target, self._source(), folder)
        forms = () if self.compressed is None else tuple(_forms(self.compressed))
        for peer in peers:
            for form in forms if peer.dtype in dtypes and peer.same else ():
                yield f"{peer.name}{SAME}{form.suffix}", partial(self._same, peer, form, folder)

    def _same(self, peer: Peer, form: _Form, folder: Path) -> Target:
        from dovetail.formats.layer import appear

        source = replace(self._source(), model=form.model, name=f"compressed{form.suffix}")
        with appear(form.appearance):
            target = peer.target(source, folder, suffix=SAME + form.suffix)
        return replace(target, reference="compressed")

    def _tensor(self) -> Tensor:
        import torch

        return torch.from_numpy(self.example)

    def _source(self) -> Source:
        from dovetail.formats.recurrent import with_fused

        images = None
        if self.calibration is not None:
            whole = len(self.calibration) // self.batch * self.batch or self.batch
            images = padded(self.calibration.images, self.batch)[:whole]
        return Source(with_fused(self.original), self._tensor(), images)

    def _own_dense(self, folder: Path) -> Target:
        """The original on our engine, in whole numbers where ours computes in them."""
        from dovetail.engine.quantize import quantize
        from dovetail.program.lower import lower

        program = lower(self.original, self._tensor())
        if "int8" in engine.dtype_of(self.program):
            images = self.example if self.calibration is None else self.calibration.images
            known = {node.name for node in program.graph.nodes if node.weight is not None}
            some = [images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE)]
            program = quantize(program, some, keep=known & engine.in_floating_point(self.program))
        return engine.target(program, folder, DENSE, "original")


def _forms(model: nn.Module) -> Iterator[_Form]:
    """As it trains; where that differs, in the factored standard ops of its formats; and with every LSTM fused."""
    from dovetail.formats.recurrent import Lstm, has_factored_form, with_fused

    fused = with_fused(model)
    yield _Form("", fused)
    if has_factored_form(fused):
        yield _Form(FACTORED, fused, "factored")
    if any(isinstance(module, Lstm) for module in fused.modules()):
        yield _Form(FUSED, with_fused(fused, recompose=True))


def _opened(program: Program | str | Path) -> Program:
    if isinstance(program, Program):
        return program
    from dovetail.program.store import load

    return load(program)


def _frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval()


def _images(program: Program, calibration: Samples | None) -> Images:
    if calibration is not None:
        return calibration.images
    graph = program.graph
    if len(graph.inputs) != 1:
        raise PeerError(f"a race needs a network with one input; this one has {', '.join(graph.inputs)}")
    shape = graph.bind(**{BATCH: 1})[graph.inputs[0]]
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _outputs(model: nn.Module, images: Images, batch: int = 100) -> tuple[np.ndarray, ...]:
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            y = model(torch.from_numpy(images[start : start + batch]))
            parts.append([part.numpy() for part in (y if isinstance(y, (tuple, list)) else (y,))])
    return tuple(np.concatenate(part) for part in zip(*parts))
