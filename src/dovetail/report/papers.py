"""What a paper claims of its machine beside what the models say: tables, and a page of them in Markdown.

A paper is plain data as `benchmarks/papers/*.yaml` have it; a result is the JSON that `dovetail paper` writes. All
ratios are of another machine with a network of its own, over the paper's machine with the paper's network.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.report import numbers
from dovetail.report.comparison import PAIRS, Share, pair_cells, shares
from dovetail.report.sways import SWAYS, little, swayed
from dovetail.report.tables import markdown

Json = Mapping[str, Any]
OURS = "ours"
WHAT = ("time", "energy")
CLAIMS = ("against", "", "paper", "model", "from – to", "model / paper", "asked")
NETWORKS = ("networks", "for", "recipe", "accuracy", "fewer bits", "fewer MACs")
GAINS = ("networks", "against", "", "paper", "all in all", "by the network", "by the machine", "per multiplier")
PAGE = """# {title}: paper against model

What the paper of [`{machine}`]({machine}.md) claims, beside what the models say: collected by
`dovetail paper {name} --out docs/accelerators/paper.md`. Ratios are of what another machine takes with a network of its
own, over what `{machine}` takes with the paper's kind of network: above 1 it takes less. Published figures are
{known}.

{claims}
The model's figure is the geometric mean over networks and machines; of which networks the paper's is a mean, and which
mean, is not known. **Parameters with a † are reconstructed**, not read in the paper. They were fixed before the first
comparison, and none was changed after it.

## Networks

Accuracies and ratios to the dense network in fp32 are those of the recipes; operands have 8 bits on all machines.

{networks}"""
DETAILS = """## Whose gain it is

{gains}
The parts of a gain are those of [simulating networks](../simulate.md#whose-gain-it-is); "per multiplier" is the ratio
of times, each times the multipliers of its machine.
"""
FIGURES = """## {name} in figures

Of {inputs}, {batch} at a time. {alike}

{pairs}"""
PARAMETERS = """### What half and twice a parameter do

Factors by which the ratios change: by a parameter of `{machine}` all of them, by one of another machine those against
it. What all machines have in common is changed on both sides. Of flags and names the other choice stands under ½. A
dash: not varied, or no machine can have the value.

{sways}
{little}"""


@dataclass(frozen=True)
class Gain:
    """One ratio of networks: what a machine of a claim takes with its own network, over the first pair.

    Attributes:
        name: of the networks.
        claim: in the paper.
        published: the paper's figure.
        share: the ratio, and its parts.
        per_multiplier: each time times the multipliers of its machine; None of energy.
    """

    name: str
    claim: str
    published: float
    share: Share
    per_multiplier: float | None

    def cells(self) -> tuple[str, ...]:
        """In the order of `GAINS`."""
        against, what, *parts = self.share.cells()
        return (self.name, against, what, numbers.times(self.published), *parts, numbers.times(self.per_multiplier))


@dataclass(frozen=True)
class Verdict:
    """One figure of a claim.

    Attributes:
        claim: its name.
        machines: that it is against.
        what: "time" or "energy".
        published: the figure.
        within: the factor by which the model may miss it; None where nothing is asked.
        found: the ratios of the models; none before anything was simulated.
    """

    claim: str
    machines: tuple[str, ...]
    what: str
    published: float
    within: float | None
    found: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Geometric, of what was found."""
        return statistics.geometric_mean(self.found) if self.found else None

    @property
    def asked(self) -> str:
        """Whether the mean is as near as asked; "" where nothing is asked, or found."""
        if self.within is None or self.mean is None:
            return ""
        near = 1 / self.within <= self.mean / self.published <= self.within
        return f"{'within' if near else 'not within'} {self.within:g}×"

    def cells(self) -> tuple[str, ...]:
        """In the order of `CLAIMS`."""
        spread = f"{numbers.times(min(self.found))} – {numbers.times(max(self.found))}" if len(self.found) > 1 else ""
        off = numbers.times(numbers.quotient(self.mean, self.published))
        against = f"{self.claim} ({', '.join(self.machines)})"
        told = numbers.times(self.mean) if self.found else "not simulated"
        return (against, self.what, numbers.times(self.published), told, spread, off, self.asked)


def gains(paper: Json, result: Json) -> list[Gain]:
    """Every ratio that the paper makes a claim of, of every network that was simulated."""
    return [gain for network in result["networks"] for gain in _gains(paper, network)]


def verdicts(paper: Json, found: Sequence[Gain]) -> list[Verdict]:
    """The figures of every claim."""
    made = []
    for claim, figures in paper["claims"].items():
        for what in WHAT:
            ratios = tuple(gain.share.whole for gain in found if (gain.claim, gain.share.what) == (claim, what))
            within = (paper["within"] or {}).get(what)
            made.append(Verdict(claim, tuple(figures["machines"]), what, figures[what], within, ratios))
    return made


def network_cells(paper: Json, result: Json) -> Iterator[tuple[str, ...]]:
    """A row for each network, in the order of `NETWORKS`; what is known of a network stands in the result."""
    known = {network["name"]: network["networks"] for network in result["networks"]}
    for name, parts in paper["networks"].items():
        for part, recipe in parts.items():
            told = known.get(name, {}).get(part, {})
            figures = (numbers.times(told.get(key)) for key in ("bits_ratio", "macs_ratio"))
            yield (
                name,
                paper["machine"] if part == OURS else part,
                recipe,
                numbers.percent(told.get("accuracy")),
                *figures,
            )


def page(name: str, paper: Json, result: Json) -> str:
    """All of it in Markdown; `name` is the paper's, on the command line."""
    found = gains(paper, result)
    parts = [
        PAGE.format(
            name=name,
            title=paper["title"],
            machine=paper["machine"],
            known=paper["known"],
            claims=markdown(CLAIMS, [one.cells() for one in verdicts(paper, found)], CLAIMS[2:-1]),
            networks=markdown(NETWORKS, network_cells(paper, result), NETWORKS[3:]),
        )
    ]
    if found:
        parts.append(DETAILS.format(gains=markdown(GAINS, [gain.cells() for gain in found], GAINS[3:])))
    if paper["notes"]:
        parts.append(f"## What decides it\n\n{paper['notes'].rstrip()}\n")
    for network in result["networks"]:
        parts.append(_figures(network))
        parts.append(_parameters(paper["machine"], network, result))
    return "\n".join(part for part in parts if part)


def _gains(paper: Json, network: Json) -> Iterator[Gain]:
    pairs = network["pairs"]
    found = {(share.machine, share.network, share.what): share for share in shares(pairs)}
    units = {pair["machine"]: pair["units"] for pair in pairs}
    for claim, figures in paper["claims"].items():
        for machine in figures["machines"] if claim in network["networks"] else ():
            for what in WHAT:
                share = found[machine, network["networks"][claim]["network"], what]
                times = share.whole * units[machine] / units[paper["machine"]] if what == "time" else None
                yield Gain(network["name"], claim, figures[what], share, times)


def _figures(network: Json) -> str:
    pairs = markdown(PAIRS, pair_cells(network["pairs"]), PAIRS[2:])
    alike = network["alike"]
    told = {key: network[key] for key in ("name", "inputs", "batch")}
    return FIGURES.format(pairs=pairs, alike=f"{alike[0].upper()}{alike[1:]}." if alike else "", **told)


def _parameters(machine: str, network: Json, result: Json) -> str:
    found = swayed(network["pairs"], result["machines"], result["shared"])
    sways = markdown(SWAYS, [sway.cells() for sway in found if sway.shown], SWAYS[4:])
    return PARAMETERS.format(machine=machine, sways=sways, little=little(found))
