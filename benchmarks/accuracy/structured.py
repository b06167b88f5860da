"""Accuracy of permuted diagonals and circulant blocks over their sizes, beside dense networks and thin ones.

    OMP_NUM_THREADS=1 python benchmarks/accuracy/structured.py [--only TEXT] [--seeds 0 1 2]
    python benchmarks/accuracy/structured.py --table lenet300100

Trains the networks of the recipes `permdnn-*` and `circnn-*` of LeNet-300-100 (MNIST) and of the linear network on the
spoken digits at other block sizes, from scratch and from the nearest weights, with three seeds each; and dense networks
as thin as those are small. All of a network have the same epochs (`EPOCHS`), for LeNet half of those of its recipes.
Rows go to `structured.json` beside this file one by one, so that a stopped run goes on where it was. The test part is
looked at once, after the last epoch; nothing is chosen by it. `--table` prints what is there as docs/methods/permdnn.md
shows it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dovetail import files
from dovetail.cli import pipeline, recipes, schema, score
from dovetail.formats import layer as layers

RESULTS = Path(__file__).with_suffix(".json")
NETWORKS = {"lenet300100": "lenet300100-mnist", "mlp_digits": "mlp-digits"}
HIDDEN = {"lenet300100": (300, 100), "mlp_digits": (512, 512)}
INPUTS = {"lenet300100": 784, "mlp_digits": 2048}
EPOCHS = {"lenet300100": 20, "mlp_digits": 60}  # from scratch; half from the nearest weights
SIZES = {"permdnn": (2, 4, 8, 10), "circnn": (2, 4, 8, 16)}


@dataclass(frozen=True)
class Row:
    """One training: what it was, and what came of it (accuracies in percent; `params` as stored)."""

    network: str
    method: str
    size: int
    start: str
    seed: int
    params: int = 0
    held_out: float = 0.0
    test: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        return (self.network, self.method, self.size, self.start, self.seed)


def wanted(seeds: list[int]) -> Iterator[Row]:
    """Every training, the dense networks first."""
    for network in NETWORKS:
        for seed in seeds:
            yield Row(network, "dense", 1, "scratch", seed)
            for size in sorted({size for sizes in SIZES.values() for size in sizes}):
                yield Row(network, "thin", size, "scratch", seed)
            for method, sizes in SIZES.items():
                for size in sizes:
                    for start in ("scratch", "pretrained"):
                        yield Row(network, method, size, start, seed)


def recipe_of(row: Row) -> schema.Recipe:
    """The recipe of a row, with its own sizes."""
    name, overrides = NETWORKS[row.network], []
    if row.method in ("dense", "thin"):
        name = f"dense-{name}"
        if row.method == "thin":
            first, second = thin(row.network, row.size)
            overrides = ["network.name=mlp", f"network.options.hidden=[{first}, {second}]"]
    else:
        name = f"{row.method}-{name}" + ("-scratch" if row.start == "scratch" else "")
        overrides = [f"method.parameters.size={row.size}"]
    epochs = EPOCHS[row.network] // (2 if row.start == "pretrained" else 1)
    overrides.append(f"method.parameters.epochs={epochs}")
    path = recipes.find(name)
    return recipes.with_weights(schema.read(path, overrides), path.parent)


def thin(network: str, size: int) -> tuple[int, int]:
    """Widths of a dense network with at most the numbers of the structured one, in the proportions of the original."""
    inputs, (first, second) = INPUTS[network], HIDDEN[network]
    budget = inputs * first / size + first * second / size + second * 10
    best = max(
        width for width in range(1, first + 1) if _numbers(inputs, width, round(width * second / first)) <= budget
    )
    return best, max(1, round(best * second / first))


def _numbers(inputs: int, first: int, second: int) -> int:
    return inputs * first + first * max(1, second) + max(1, second) * 10


def trained(row: Row) -> Row:
    """Trains it and looks at the test part."""
    recipe = recipe_of(row)
    done = pipeline.train(recipe, "structured", row.seed, None, keep=False)
    weights = [m for m in done.model.modules() if isinstance(m, layers.FormatLayer | layers.nn.Linear)]
    params = sum(layers.pack(layer).params() for layer in weights)
    parts = {part: score.through_torch(done.model, getattr(done.sets, part)) for part in ("held_out", "test")}
    found = {part: round(answers.accuracy, 3) for part, answers in parts.items()}
    return Row(*row.key, params=params, **found)


def read() -> list[Row]:
    """The rows of `structured.json`."""
    return [Row(**row) for row in json.loads(RESULTS.read_text())["rows"]] if RESULTS.exists() else []


COLUMNS = (
    ("permuted diagonals, from scratch", "permdnn", "scratch"),
    ("from the nearest", "permdnn", "pretrained"),
    ("circulant blocks, from scratch", "circnn", "scratch"),
    ("from the nearest", "circnn", "pretrained"),
    ("thin dense network", "thin", "scratch"),
)


def table(rows: list[Row], network: str) -> str:
    """Mean accuracy in percent (lowest to highest seed) on the test part, in Markdown, a line for each size."""

    def cell(method: str, size: int, start: str) -> str:
        found = [row.test for row in rows if row.key[:4] == (network, method, size, start)]
        spread = f"{sum(found) / len(found):.2f} ({min(found):.2f}-{max(found):.2f})" if len(found) > 1 else ""
        return spread or "".join(f"{accuracy:.2f}" for accuracy in found)

    def numbers(methods: tuple[str, ...], size: int) -> str:
        found = {row.params for row in rows if row.network == network and row.method in methods and row.size == size}
        return ", ".join(f"{params:,}" for params in sorted(found))

    lines = [f"| size | numbers | {' | '.join(name for name, *_ in COLUMNS)} | its numbers |"]
    lines.append("|---:" * (len(COLUMNS) + 3) + "|")
    for size in sorted({size for sizes in SIZES.values() for size in sizes}):
        cells = [
            numbers(("permdnn", "circnn"), size),
            *(cell(method, size, start) for _, method, start in COLUMNS),
        ]
        lines.append(f"| {size} | {' | '.join(cells)} | {numbers(('thin',), size)} |")
    return f"Dense: {cell('dense', 1, 'scratch')} %, {numbers(('dense',), 1)} numbers.\n\n" + "\n".join(lines)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="train rows alone whose network, method and start contain this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", choices=NETWORKS, help="print the table of what was trained, and train nothing")
    options = parser.parse_args()
    rows = read()
    if options.table:
        print(table(rows, options.table))
        return
    known = {row.key for row in rows}
    for row in wanted(options.seeds):
        if row.key in known or options.only not in f"{row.network}/{row.method}/{row.start}":
            continue
        rows.append(trained(row))
        print(rows[-1], flush=True)
        data = {"command": "python benchmarks/accuracy/structured.py", "rows": [asdict(each) for each in rows]}
        files.write(RESULTS, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
