"""From what was measured to rows and ratios: which comparison a claim is made against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dovetail.peers.compare import AGAIN, DENSE, OURS, Outcome
from dovetail.peers.peer import PEERS, Target
from dovetail.peers.ratios import paired, summarise
from dovetail.peers.results import Ratio, Row
from dovetail.peers.schedule import Key

SLACK = 0.3
"""Points of accuracy that a peer of another type may lose beyond our own drop and still be our rival."""


@dataclass(frozen=True)
class Judge:
    """Forms the rows and ratios of one case.

    Attributes:
        outcome: of the race.
        case: `<network>/<variant>`.
        dense_accuracy: of the original torch model on the labelled data, in percent, or None for time-only cases.
        images: of the labelled data; one of few is more than `SLACK`.
    """

    outcome: Outcome
    case: str
    dense_accuracy: float | None = None
    images: int | None = None

    def rows(self) -> tuple[Row, ...]:
        """The better thread count of every target (the plain case), then each thread count by itself (`_t<n>`)."""
        names = [name for name in self.outcome.targets if self.outcome.best(name) is not None]
        plain = [self._row(self._best(name), self.case) for name in names]
        if len({threads for _, threads in self.outcome.times}) == 1:
            return tuple(plain)
        detail = [self._row(key, f"{self.case}_t{key[1]}") for key in self.outcome.times if key[0] != AGAIN]
        return (*plain, *detail)

    def ratios(self) -> tuple[Ratio, ...]:
        """`vs_f32`, `vs_best`, `vs_own_dense`, `vs_beside`, `vs_int8`, `vs_same`, as far as there is a peer for them.

        Of several possible peers, and of the thread counts of each, it is the one that leaves the smallest claim; we
        run with our better thread count.
        """
        ours = self.outcome.targets[OURS]
        dense = self.outcome.targets.get(DENSE)
        found = [
            self._hardest("vs_f32", OURS, (t for t in self._dense_peers() if t.dtype == "f32")),
            self._hardest("vs_best", OURS, (t for t in self._dense_peers() if self._is_rival(t))),
            self._hardest("vs_own_dense", OURS, (t for t in (dense,) if t is not None and _kind(t) == _kind(ours))),
            self._hardest("vs_beside", OURS, (t for t in self.outcome.targets.values() if t.reference == "beside")),
            self._hardest("vs_int8", DENSE, self._int8_peers(dense)),
            self._hardest("vs_same", OURS, self._same()),
        ]
        return tuple(ratio for ratio in found if ratio is not None)

    def noise(self) -> tuple[Ratio, ...]:
        """Our target against its twin, with the same number of threads."""
        _, threads = self._best(OURS)
        if (AGAIN, threads) not in self.outcome.times:
            return ()
        return (self._ratio("noise", (OURS, threads), (AGAIN, threads)),)

    def _best(self, name: str) -> Key:
        best = self.outcome.best(name)
        if best is None:
            raise LookupError(name)
        return best

    def _row(self, key: Key, case: str) -> Row:
        times, answers = summarise(self.outcome.times[key]), self.outcome.answers[key]
        against = self._ratio("", self._best(OURS), key).value
        return Row(
            case=case,
            target=key[0],
            dtype=self.outcome.targets[key[0]].dtype,
            median_ms=round(times.median, 6),
            p10_ms=round(times.p10, 6),
            p90_ms=round(times.p90, 6),
            runs=times.runs,
            max_error=answers.max_error,
            threads=key[1],
            agreement=answers.agreement,
            accuracy=self._accuracy(key[0]),
            ratio=against,
        )

    def _ratio(self, name: str, ours: Key, peer: Key) -> Ratio:
        pair = paired(self.outcome.times[peer], self.outcome.times[ours])
        return Ratio(
            f"{self.case}/{name}", ours[0], peer[0], round(pair.value, 4), round(pair.median, 4), round(pair.p10, 4)
        )

    def _hardest(self, name: str, ours: str, peers: Iterable[Target]) -> Ratio | None:
        if self.outcome.best(ours) is None:
            return None
        names = {peer.name for peer in peers}
        found = [self._ratio(name, self._best(ours), key) for key in self.outcome.times if key[0] in names]
        return min(found, key=lambda ratio: ratio.value, default=None)

    def _dense_peers(self) -> list[Target]:
        orientation = {name for name, peer in PEERS.items() if peer.orientation}
        outside = {OURS, DENSE, *orientation}
        return [t for t in self.outcome.targets.values() if t.reference == "original" and t.name not in outside]

    def _same(self) -> list[Target]:
        return [t for t in self.outcome.targets.values() if t.reference == "compressed" and t.name != OURS]

    def _int8_peers(self, dense: Target | None) -> list[Target]:
        wanted = dense is not None and _kind(dense) == "int8"
        return [t for t in self._dense_peers() if t.dtype == "int8"] if wanted else []

    def _is_rival(self, peer: Target) -> bool:
        """Whether it loses at most our drop (not below zero) and `SLACK`, or one image where that is more.

        Without accuracies everybody is a rival.
        """
        ours, theirs = self._accuracy(OURS), self._accuracy(peer.name)
        if self.dense_accuracy is None or ours is None or theirs is None:
            return True
        drop = max(self.dense_accuracy - ours, 0.0)
        slack = max(SLACK, 100 / self.images) if self.images else SLACK
        return self.dense_accuracy - theirs <= drop + slack + 1e-6

    def _accuracy(self, name: str) -> float | None:
        """As measured; the original network in f32 has the torch model's."""
        target = self.outcome.targets[name]
        measured = next((a.accuracy for k, a in self.outcome.answers.items() if k[0] == name), None)
        exact = target.dtype == "f32" and target.reference == "original"
        return self.dense_accuracy if measured is None and exact else measured


def _kind(target: Target) -> str:
    """Its value type; a network of which some layers stayed in floating point computes in int8."""
    return "int8" if "int8" in target.dtype.split("+") else target.dtype
