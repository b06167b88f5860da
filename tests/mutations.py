"""Files that are no Programs, made from files that are: header, arrays or bytes changed by a seeded generator.

Random changes find what nobody thought of; the aimed ones (`AIMED`) each make sure that one kind of error is met.
`ERRORS` tells the kinds apart by their words.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from dovetail.errors import DovetailError
from dovetail.formats import Packed
from dovetail.program.header import from_json, stored_arrays, to_json
from dovetail.program.ops import check_node
from dovetail.program.program import Program
from dovetail.program.store import VERSION

Data = Any
Arrays = dict[str, np.ndarray]


@dataclass
class Stored:
    """What a file holds: its header (data, text, or None for none), its arrays, and how its bytes are damaged."""

    header: Data
    arrays: Arrays
    damage: Callable[[bytes], bytes] = bytes

    @classmethod
    def of(cls, program: Program) -> Stored:
        header = {"version": list(VERSION), **to_json(program)}
        return cls(json.loads(json.dumps(header)), dict(stored_arrays(program)))

    def copy(self) -> Stored:
        return Stored(copy.deepcopy(self.header), dict(self.arrays))

    def write(self, path: Path) -> None:
        text = self.header if isinstance(self.header, str) else json.dumps(self.header)
        metadata = {"other": ""} if self.header is None else {"dovetail": text}
        arrays = {key: np.ascontiguousarray(array) for key, array in self.arrays.items()}
        path.write_bytes(self.damage(to_safetensors(arrays, metadata=metadata)))

    # --- parts of a header that is whole ---------------------------------------------------------------------------

    @property
    def main(self) -> Data:
        """The main graph."""
        return self.header["graphs"]["main"]

    def tensor(self, name: str) -> Data:
        return self.main["tensors"][name]

    def nodes(self, *ops: str) -> list[Data]:
        """All nodes, or those of some ops."""
        return [node for node in self.main["nodes"] if not ops or node["op"] in ops]

    def node(self, op: str) -> Data:
        """The first node of an op, with an epilogue to change."""
        node = self.nodes(op)[0]
        node.setdefault("epilogue", {})
        return node

    def output(self, op: str) -> Data:
        """The tensor that the first node of an op writes."""
        return self.tensor(self.node(op)["output"])

    def weight(self, format_name: str) -> str:
        """The name of the first weight in a format."""
        return next(n for n, entry in self.header["weights"].items() if entry["spec"]["format"] == format_name)

    def entry(self, format_name: str) -> Data:
        """What the header says of that weight."""
        return self.header["weights"][self.weight(format_name)]

    def key(self, format_name: str, part: str) -> str:
        """The first array of that name of a weight in a format."""
        weights = self.header["weights"].items()
        names = [f"weights/{name}/{part}" for name, entry in weights if entry["spec"]["format"] == format_name]
        return next(name for name in names if name in self.arrays)

    def change(self, key: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Another array in the place of one."""
        self.arrays[key] = change(self.arrays[key].copy())

    def put(self, key: str, value: float) -> None:
        """Change the first number of an array."""
        self.arrays[key] = self.arrays[key].copy()
        self.arrays[key].flat[0] = value

    def add_array(self, name: str, array: np.ndarray) -> str:
        """One more constant."""
        self.arrays[f"arrays/{name}"] = array
        self.header["arrays"].append(name)
        return name

    def exchange(self, weight: str, packed: Packed) -> None:
        """Another weight in the place of one."""
        for old in [key for key in self.arrays if key.startswith(f"weights/{weight}/")]:
            del self.arrays[old]
        self.arrays |= {f"weights/{weight}/{part}": array for part, array in packed.arrays.items()}
        entry = {"spec": packed.spec.to_json(), "shape": packed.shape, "arrays": list(packed.arrays)}
        self.header["weights"][weight] = json.loads(json.dumps(entry))

    def insert_before(self, node: Data, op: str, source: str, shape: list, **fields: Any) -> str:
        """One more node and the tensor that it writes; its type is that of its source, or float32 for `dequantize`."""
        name = f"{op} of {source}"
        made = {"shape": shape, "dtype": "float32"} if op == "dequantize" else {**self.tensor(source), "shape": shape}
        self.main["tensors"][name] = made
        place = self.main["nodes"].index(node)
        self.main["nodes"].insert(place, {"op": op, "name": name, "inputs": [source], "output": name, **fields})
        return name


VALUES = (
    None, True, False, *range(-3, 10), 64, 255, 256, 65536, 2**31 - 1, 2**31, -(2**63), 10**400, 0.0, 0.5, -1.0, 1e39,
    "", "x", "x0", "batch", "0*batch", "3*batch", "relu", "main", "float32", "uint8", "int8", "f32", "dense", "sparse",
    [], {}, [0], [1, 1], [3, 3], [[0, 0]], [2**31 - 1] * 2, ["batch", 4, 8, 8], [1, 1, 1, 1], {"a": 1}, ["gelu"],
)  # fmt: skip


def places(data: Data, path: tuple = ()) -> Iterator[tuple]:
    """Every place in the header: the path to it."""
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def at(data: Data, path: tuple) -> Data:
    for key in path:
        data = data[key]
    return data


def change_header(random: Random, file: Stored) -> None:
    """Replace, remove, double, nudge or exchange what is at a random place."""
    paths = list(places(file.header))
    if not paths:
        return
    path = random.choice(paths)
    holder, key = at(file.header, path[:-1]), path[-1]
    value = holder[key]
    match random.choice(["replace", "replace", "remove", "double", "nudge", "borrow", "borrow"]):
        case "replace":
            holder[key] = copy.deepcopy(random.choice(VALUES))
        case "remove":
            del holder[key]
        case "double" if isinstance(holder, list):
            holder.insert(random.randint(0, len(holder)), copy.deepcopy(value))
        case "nudge" if isinstance(value, int | float) and not isinstance(value, bool):
            holder[key] = random.choice([value + 1, value - 1, 2 * value, -value, value * 1e10])
        case _:
            holder[key] = copy.deepcopy(at(file.header, random.choice([p for p in paths if len(p) == len(path)])))


SIZES = (0, *range(1, 10), *range(1, 10), 15, 16, 17, 31, 32, 33, 64, 65, 255, 1000, 65536, 2**30, 2**31 - 1)


def change_sizes(random: Random, file: Stored) -> None:
    """A few numbers among the attributes and in the shapes of inputs, and then the shapes of all that follows.

    Most files that contradict themselves are refused at once; these are odd networks, and whole.
    """
    if not isinstance(file.header, dict):
        return
    with contextlib.suppress(DovetailError, KeyError, TypeError, AttributeError):
        holders = [node["attributes"] for node in file.nodes() if node.get("attributes")]
        holders += [file.tensor(name) for name in file.main["inputs"]]
        for _ in range(random.choice((1, 1, 2, 3))):
            holder = random.choice(holders)
            paths = [p for p in places(holder) if type(at(holder, p)) is int]
            if paths:
                path = random.choice(paths)
                at(holder, path[:-1])[path[-1]] = random.choice(SIZES)
        mend(file)


def mend(file: Stored) -> None:
    """Write the shapes that follow from the nodes; where none follows the network ends."""
    program = from_json({key: value for key, value in file.header.items() if key != "version"}, file.arrays)
    known = {name: array.shape for name, array in program.arrays.items()}
    known |= {name: program.graph.tensors[name].shape for name in program.graph.inputs}
    for i, node in enumerate(program.graph.nodes):
        weight = program.weights[node.weight].shape if node.weight is not None else None
        try:
            known[node.output] = check_node(node, known, weight, program.graphs)
        except DovetailError:
            end_before(file, i)
            return
        file.tensor(node.output)["shape"] = list(known[node.output])


def end_before(file: Stored, count: int) -> None:
    """Only the first `count` nodes, or fewer, the last of which gives real numbers."""
    kept = file.main["nodes"][:count]
    while kept and file.tensor(kept[-1]["output"])["dtype"] != "float32":
        kept.pop()
    made = [*file.main["inputs"], *(node["output"] for node in kept)]
    file.main.update(nodes=kept, outputs=made[-1:], tensors={name: file.tensor(name) for name in made})


def change_array(random: Random, file: Stored) -> None:
    """Another number, size, shape, type or name of a random array."""
    if not file.arrays:
        return
    key = random.choice(sorted(file.arrays))
    array = file.arrays[key].copy()
    match random.choice(["value", "value", "shorter", "longer", "shape", "type", "gone", "extra"]):
        case "value" if array.size:
            extremes = [np.inf, np.nan, 0.0, -1.0, 1e38] if array.dtype.kind == "f" else [0, 1, -128, 127, 128, 255]
            array.flat[random.randrange(array.size)] = np.array(random.choice(extremes)).astype(array.dtype)
        case "shorter":
            array = array.ravel()[:-1]
        case "longer":
            array = np.concatenate([array.ravel(), array.ravel()[:3]])
        case "shape":
            array = random.choice([array[None], array.ravel(), array.T])
        case "type":
            array = array.view(np.int8) if array.ndim else array.astype(np.float64)
        case "gone":
            del file.arrays[key]
            return
        case _:
            key += ".more"
    file.arrays[key] = array


def change_bytes(random: Random, file: Stored) -> None:
    """A bit of the file, or its end."""
    place, bit = random.random(), 1 << random.randrange(8)

    def flip(data: bytes) -> bytes:
        early = min(len(data), 4096)  # half of the damage to the header of the container and the first numbers
        at = int(place * 2 * early) if place < 0.5 else int((2 * place - 1) * len(data))
        return bytes([*data[:at], data[at] ^ bit, *data[at + 1 :]])

    file.damage = random.choice([flip, flip, lambda data: data[: int(place * len(data))]])
