"""The fair race: start everybody, check that they compute the same, time them in turn, form the ratios.

Whoever fails leaves the race with its reason; only when our own engine fails is there no race. The rules stand in
`benchmarks/README.md`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers import agreement
from dovetail.peers.conditions import busy_neighbour
from dovetail.peers.peer import Images, Target
from dovetail.peers.process import Child
from dovetail.peers.schedule import Block, Key, Pace, Report, drive, key

OURS, DENSE, AGAIN, BESIDE = "dovetail", "dovetail-dense", "dovetail-again", "dovetail-beside"
Truth = dict[str, tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Questions:
    """What targets are asked before the clock runs.

    Attributes:
        example: the timed input, `(batch, ...)`.
        check: images, a multiple of the batch, with the outputs of each network on them by name in `truth`.
        test: further images, padded to a multiple of the batch, for quantised targets and ours; their `labels` may be
            fewer (the rest is padding) or None.
        test_truth: the original network's outputs on `test`.
    """

    example: Images
    check: Images
    truth: Truth
    test: Images | None = None
    labels: np.ndarray | None = None
    test_truth: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Answers:
    """How well a target computes its network; errors relative, the others in percent."""

    max_error: float
    agreement: float | None = None
    accuracy: float | None = None


@dataclass
class Outcome:
    """What `compare` measured: times and answers by (target, threads), and who left the race and why."""

    targets: dict[str, Target]
    times: dict[Key, list[Block]] = field(default_factory=dict)
    answers: dict[Key, Answers] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def best(self, name: str) -> Key | None:
        """The faster thread count of a target, by the median of all its runs."""
        mine = [k for k in self.times if k[0] == name]
        return min(mine, key=lambda k: float(np.median(np.concatenate(self.times[k]))), default=None)


def compare(
    targets: Sequence[Target],
    questions: Questions,
    *,
    threads: Sequence[int],
    pace: Pace,
    busy: bool = False,
    timeout: float = 300.0,
    report: Report = lambda _: None,
) -> Outcome:
    """Race `targets`, the first of which is ours, each with each thread count; `busy`: beside a process that computes.

    Raises:
        PeerError: our own target failed with every thread count, or its outputs are wrong.
    """
    ours = targets[0]
    outcome = Outcome({target.name: target for target in targets})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dovetail-race-")))
        contest = _Contest(outcome, questions, folder, report)
        children = contest.start([*targets, _again(ours)], threads, timeout, stack)
        racing = contest.examine(children)
        _require(ours, racing, outcome)
        report(f"timing {len(racing)} processes, {pace.blocks} blocks each")
        with busy_neighbour() if busy else nullcontext():
            outcome.times = drive(racing, pace, contest.drop)
    if outcome.best(ours.name) is None:
        raise PeerError(f"our own target did not finish: {_reasons(ours, outcome)}")
    return outcome


@dataclass
class _Contest:
    """The steps before the clock runs; children that fail are dropped with the reason."""

    outcome: Outcome
    questions: Questions
    folder: Path
    report: Report

    def drop(self, child: Child, error: PeerError) -> None:
        """End a child and note why it leaves: one that was given up would go on computing beside the others."""
        child.kill()
        self.outcome.absent[child.name] = str(error).removeprefix(f"{child.name}: ")
        self.report(f"left out: {error}")

    def start(self, targets: Sequence[Target], threads: Sequence[int], timeout: float, stack: ExitStack) -> list[Child]:
        """Load all targets; the thread counts of one load beside each other unless it wants quiet."""
        example = self._write("example", self.questions.example)
        ready: list[Child] = []
        for target in targets:
            self.report(f"loading {target.name}")
            children = [stack.enter_context(Child(target, count, self.folder, timeout)) for count in threads]
            for group in [[child] for child in children] if target.quiet else [children]:
                ready += self._load(group, example)
        return ready

    def examine(self, children: Sequence[Child]) -> list[Child]:
        """Compare everybody's outputs with the truth; the children that may race."""
        check = self._write("check", self.questions.check)
        racing = []
        for child in children:
            try:
                self.outcome.answers[key(child)] = self._answers(child, check)
                racing.append(child)
            except PeerError as error:
                self.drop(child, error)
        return self._measure_accuracy(racing)

    def _load(self, group: Sequence[Child], example: Path) -> list[Child]:
        for child in group:
            target = child.target
            child.send(
                "load",
                module=target.module,
                arguments=dict(target.arguments),
                threads=child.threads,
                example=str(example),
            )
        ready = []
        for child in group:
            try:
                child.receive()
                ready.append(child)
            except PeerError as error:
                self.drop(child, error)
        return ready

    def _answers(self, child: Child, check: Path) -> Answers:
        got, want = self._outputs(child, check), self.questions.truth[child.target.reference]
        error, allowed = agreement.max_error(got, want), tolerance(child.target)
        if not error < allowed:
            what = f"outputs differ from the {child.target.reference} network by {error:.2g} of their range"
            raise PeerError(f"{child.name}: {what}")
        return Answers(error, None if np.isfinite(allowed) else agreement.top1_agreement(got, want))

    def _measure_accuracy(self, children: Sequence[Child]) -> list[Child]:
        """On the test images, once per target that is not just the original network in f32; who is left."""
        if self.questions.test is None:
            return list(children)
        test = self._write("test", self.questions.test)
        left: list[Child] = []
        for child in children:
            target, measured = child.target, {other.target.name for other in left}
            if _is_lossy(target) and target.name not in measured:
                self.report(f"accuracy of {target.name}")
                try:
                    self._note_accuracy(target, self._outputs(child, test))
                except PeerError as error:
                    self.drop(child, error)
                    continue
            left.append(child)
        return left

    def _note_accuracy(self, target: Target, outputs: tuple[np.ndarray, ...]) -> None:
        labels = self.questions.labels
        same = agreement.top1_agreement(outputs, self.questions.test_truth)
        right = None if labels is None else agreement.accuracy(outputs, labels)
        for k, old in self.outcome.answers.items():
            if k[0] == target.name:
                self.outcome.answers[k] = replace(old, agreement=same, accuracy=right)

    def _outputs(self, child: Child, images: Path) -> tuple[np.ndarray, ...]:
        result = self.folder / f"{child.target.name}-t{child.threads}.npz"
        child.ask("outputs", images=str(images), result=str(result))
        with np.load(result) as arrays:
            return tuple(arrays[name] for name in arrays.files)

    def _write(self, name: str, images: Images) -> Path:
        path = self.folder / f"{name}.npy"
        np.save(path, images)
        return path


def tolerance(target: Target) -> float:
    """How far outputs may differ from the reference, relative to their range.

    Ours must mean what the packed network says, whatever its values are; against the original only f32 is exact.
    """
    own = target.name.startswith(OURS)
    if target.dtype != "f32" and not (own and target.reference != "original"):
        return np.inf
    return agreement.OWN_TOLERANCE if own else agreement.F32_TOLERANCE


def _again(ours: Target) -> Target:
    return replace(ours, name=AGAIN)


def _is_lossy(target: Target) -> bool:
    return target.name != AGAIN and (target.dtype != "f32" or target.reference != "original")


def _require(ours: Target, racing: Sequence[Child], outcome: Outcome) -> None:
    if not any(child.target.name == ours.name for child in racing):
        raise PeerError(f"there is no race without our own target: {_reasons(ours, outcome)}")


def _reasons(ours: Target, outcome: Outcome) -> str:
    """Why it is absent, by number of threads."""
    return "; ".join(f"{name}: {why}" for name, why in outcome.absent.items() if name.startswith(ours.name + " ("))
