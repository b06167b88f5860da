"""From packed networks and races to the plain data of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dovetail.cli import layers
from dovetail.cli.networks import left_dense, left_real
from dovetail.report import Layer, Left, Page, Point, Ratio, Section, Variant

if TYPE_CHECKING:
    from dovetail.program.program import Program
    from dovetail.report.data import Group
    from dovetail.report.fits import Fitted

OURS, OURS_DENSE, SAME, SELF = "dovetail", "dovetail-dense", "-same", "_self"
ORIENTATION = ("torch-eager",)
MOVES = ("halo", "copy", "deal")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One network of a report.

    Attributes:
        accuracy: percent on the test set, the mean over seeds.
        races: the JSON of its races; the plain one first. Of the dense original: those in other runtimes (`SELF`).
        thin: a dense network of fewer channels or layers, in f32 or int8: a point of a curve that compressed ones must
            beat.
    """

    name: str
    program: Program
    accuracy: float | None
    races: Sequence[Json] = ()
    note: str = ""
    thin: bool = False


@dataclass(frozen=True)
class Material:
    """All that a report is made from; `dense` is the original, `entries` what became of it."""

    title: str
    dense: Entry
    entries: Sequence[Entry]
    split: str
    command: str
    timed: bool = True
    notes: Sequence[str] = field(default_factory=tuple)
    simulations: Sequence[Json] = field(default_factory=tuple)
    fits: Sequence[Fitted] = field(default_factory=tuple)
    layer: str | None = None


def build(material: Material) -> Page:
    """The report's plain data."""
    entries, races = material.entries, [race for entry in material.entries for race in entry.races]
    before = layers.rows(material.dense.program, timed=material.timed, threads=1)
    return Page(
        title=material.title,
        variants=(_dense_variant(material.dense, races), *(_variant(entry) for entry in entries)),
        ratios=tuple(ratio for entry in entries for ratio in _ratios(entry)),
        points=tuple(_points(material.dense, entries)),
        sections=tuple(_section(entry, before, timed=material.timed) for entry in entries if not entry.thin),
        left=tuple(left for entry in entries if not entry.thin for left in _left(entry)),
        simulations=tuple(material.simulations),
        fits=tuple(material.fits),
        layer=material.layer,
        split=material.split,
        machine=_machine(races),
        versions=_versions(races),
        command=material.command,
        date=str(races[0]["date"]).partition("T")[0] if races else "",
        notes=(*material.notes, *_noise(races), *_absent(races)),
    )


def of_fits(fits: Mapping[str, Fitted], command: str, layer: str | None = None) -> Page:
    """A report of nothing but networks that were fitted to budgets: all of one, on one data set."""
    first = next(iter(fits.values()))
    trained = {name: fitted.achieved for name, fitted in fits.items() if fitted.achieved is not None}
    dense = next((achieved.dense_accuracy for achieved in trained.values()), None)
    return Page(
        title=f"{first.network} on {first.data}, fitted to a budget",
        variants=(
            Variant(first.network, dense, latency_ms=first.survey["dense_ms"]),
            *(
                Variant(name, a.accuracy, bytes=round(a.bytes), latency_ms=1e3 * a.latency)
                for name, a in trained.items()
            ),
        ),
        ratios=tuple(
            Ratio(name, "vs_best", achieved.rival_seconds / achieved.latency, achieved.rival)
            for name, achieved in trained.items()
            if achieved.rival != OURS_DENSE
        ),
        fits=tuple(fits.values()),
        layer=layer,
        split="held-out images",
        machine=_processor(first.survey["machine"]) | {"threads": str(first.survey["threads"])},
        command=command,
    )


def rows_of(race: Json) -> list[Json]:
    """The rows of a race at the better thread count of each target."""
    return [row for row in race["rows"] if row["case"] == race["rows"][0]["case"]]


def fastest(race: Json, dtype: str, ours: str | None = None) -> Json | None:
    """The row of the fastest peer of a type that runs the original network; `ours` is a target of our engine that does.

    In a race of a network in the runtimes themselves (`SELF`) that is `OURS`, in others `OURS_DENSE`.
    """
    found = [row for row in rows_of(race) if _kind(row) == dtype and (row["target"] == ours or _is_rival(row))]
    return min(found, key=lambda row: row["median_ms"], default=None)


def _is_rival(row: Json) -> bool:
    target = row["target"]
    return SAME not in target and not target.startswith(OURS) and target not in ORIENTATION


def _kind(row: Json) -> str:
    """A network of which some layers stayed in floating point computes in int8."""
    return "int8" if "int8" in row["dtype"].split("+") else str(row["dtype"])


def latency(race: Json, target: str, dtype: str | None = None) -> float | None:
    """Median milliseconds of a target, if it ran (in that type)."""
    found = [row for row in rows_of(race) if row["target"] == target and dtype in (None, row["dtype"])]
    return float(found[0]["median_ms"]) if found else None


def _variant(entry: Entry) -> Variant:
    own = next((ratio.value for ratio in _ratios(entry) if ratio.name == "vs_own_dense"), None)
    return replace(_counted(entry, latency(entry.races[0], OURS) if entry.races else None), speedup=own)


def _dense_variant(dense: Entry, races: Sequence[Json]) -> Variant:
    """In floating point: beside a network in whole numbers our dense one races in whole numbers, too."""
    times = [time for race in races if not _is_self(race) and (time := latency(race, OURS_DENSE, "f32")) is not None]
    return _counted(dense, times[0] if times else None)


def _counted(entry: Entry, milliseconds: float | None) -> Variant:
    from dovetail.program.counts import count

    counts = count(entry.program)
    return Variant(
        name=entry.name,
        accuracy=entry.accuracy,
        params=counts.params,
        macs=counts.macs,
        bytes=counts.bits // 8,
        latency_ms=milliseconds,
        note=entry.note,
    )


def _ratios(entry: Entry) -> Iterable[Ratio]:
    for race in entry.races:
        if not _is_self(race):
            for ratio in race["ratios"]:
                yield Ratio(entry.name, ratio["case"].rpartition("/")[2], ratio["value"], ratio["peer"])


def _points(dense: Entry, entries: Sequence[Entry]) -> Iterable[Point]:
    """Ours; the dense original and the thinner dense networks in the fastest runtime in f32 and int8, ours included."""
    for entry in entries:
        yield from _thin_points(entry) if entry.thin else _our_points(entry)
    originals = [race for entry in entries for race in entry.races if not _is_self(race)]
    for race in (*dense.races, *originals)[:1]:
        yield from _best_points(dense, race, "dense", OURS if _is_self(race) else OURS_DENSE)


def _our_points(entry: Entry) -> Iterable[Point]:
    for race in entry.races:
        if not _is_self(race) and entry.accuracy is not None and (ours := latency(race, OURS)) is not None:
            yield Point(entry.name, "ours", ours, entry.accuracy)


def _thin_points(entry: Entry) -> Iterable[Point]:
    """From its race in the runtimes themselves; where there is none, on our engine beside its original."""
    race = next((race for race in entry.races if _is_self(race)), None)
    if race is not None:
        yield from _best_points(entry, race, "thin", OURS)
        return
    for row in (row for race in entry.races[:1] for row in rows_of(race) if row["target"] == OURS):
        if (found := row.get("accuracy", entry.accuracy)) is not None:
            yield Point(entry.name, "int8" if _kind(row) == "int8" else "thin", row["median_ms"], found)


def _best_points(entry: Entry, race: Json, group: Group, ours: str) -> Iterable[Point]:
    """In f32 and int8, both with what this race measured on one and the same network; f32 else with the entry's.

    Of a network that is in int8 itself only this.
    """
    best, int8 = fastest(race, "f32", ours), fastest(race, "int8", ours)
    own = _is_self(race) and any(row["target"] == OURS and _kind(row) == "int8" for row in rows_of(race))
    if not own and best is not None and (found := best.get("accuracy", entry.accuracy)) is not None:
        yield Point(entry.name, group, best["median_ms"], found)
    if int8 is not None and int8.get("accuracy") is not None:
        yield Point(entry.name if own else f"{entry.name} int8", "int8", int8["median_ms"], int8["accuracy"])


def _section(entry: Entry, before: Sequence[layers.Row], *, timed: bool) -> Section:
    dense = {row.name: row for row in before}
    after = layers.rows(entry.program, timed=timed, threads=1)
    return Section(entry.name, tuple(_layer(row, dense.get(row.name)) for row in after))


def _layer(row: layers.Row, dense: layers.Row | None) -> Layer:
    return Layer(
        name=row.name,
        format=row.format,
        detail=row.detail,
        seconds=row.seconds,
        dense_seconds=None if dense is None else dense.seconds,
        bits=row.bits,
        dense_bits=0 if dense is None else dense.bits,
        kernel=_main_kernel(row.kernel),
    )


def _main_kernel(names: str) -> str:
    """The kernel of the product alone, without the copies into its layout and without the ISA."""
    parts = [part.split()[-1].partition("__")[0] for part in names.split(" + ") if part]
    return next((part for part in parts if not part.startswith(MOVES)), parts[0] if parts else "")


def _left(entry: Entry) -> Iterable[Left]:
    for reason, names in left_dense(entry.program).items():
        yield Left(entry.name, ", ".join(names), reason)
    for reason, names in left_real(entry.program).items():
        yield Left(entry.name, ", ".join(names), f"in floating point: {reason}")


def _is_self(race: Json) -> bool:
    return bool(race["rows"]) and str(race["rows"][0]["case"]).endswith(SELF)


def _machine(races: Sequence[Json]) -> dict[str, str]:
    if not races:
        from dovetail.peers.machine import machine

        here, more = machine(), {}
    else:
        here = races[0]["machine"]
        more = {
            "threads": "the better of " + " and ".join(map(str, races[0]["threads"])),
            "batch": str(races[0]["batch"]),
        }
    return _processor(here) | more


def _processor(machine: Json) -> dict[str, str]:
    return {"processor": machine["cpu"], "cores": str(machine["cores"]), "instructions": ", ".join(machine["isa"])}


def _versions(races: Sequence[Json]) -> dict[str, str]:
    found = {name: text for race in races for name, text in race["versions"].items()}
    return {name: text for name, text in found.items() if not text.startswith("not run")}


def _noise(races: Sequence[Json]) -> list[str]:
    found = [abs(noise["median"] - 1.0) for race in races for noise in race.get("noise", ())]
    return [f"The same network raced against itself differed by at most {max(found):.1%}."] if found else []


def _absent(races: Sequence[Json]) -> list[str]:
    found = {name: text for race in races for name, text in race["versions"].items() if text.startswith("not run")}
    return [f"{name}: {text}" for name, text in found.items()]
