"""Who may import whom, read from the sources; and that importing stays lean, seen in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import dovetail
from dovetail.program import reference
from dovetail.program.program import Activation
from dovetail.program.store import save
from programs import Sketch, close, random_packed

PACKAGE = Path(dovetail.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {path.relative_to(PACKAGE.parent).with_suffix("").as_posix() for path in SOURCES}

EVERYWHERE = {"errors", "files"}
NUMBERS = {"numpy"}
HEAVY = {
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
    "ncnn",
    "MNN",
    "triton",
    "matplotlib",
    "sklearn",
    "PIL",
    "rich",
    "jinja2",
    "cyclopts",
}


@dataclass(frozen=True)
class Room:
    """What the modules of a room may import: other rooms of Dovetail, and third parties."""

    rooms: frozenset[str]
    packages: frozenset[str]


def room(rooms: str, packages: str = "") -> Room:
    return Room(frozenset(rooms.split()) | EVERYWHERE, frozenset(packages.split()) | NUMBERS)


# The arrows of the design. A file with torch among numpy-only neighbours is a room of its own.
ROOMS = {
    "errors": room(""),
    "files": Room(frozenset({"errors"}), frozenset()),
    "formats": room("formats"),
    "formats.layer": room("formats formats.layer", "torch"),
    "program": room("formats program", "safetensors"),
    "program.lower": room("formats formats.layer program program.lower", "torch"),
    "engine": room("formats program engine", "safetensors"),
    "accelerators": room("formats program accelerators"),
    "training": room("training", "torch safetensors rich"),
    "methods": room("formats formats.layer training program program.lower methods", "torch"),
    "search": room("formats formats.layer program methods search", "torch"),
    "export": room("formats formats.layer program program.lower export", "torch onnx onnxscript onnxruntime"),
    "gpu": room("formats formats.layer program gpu gpu.language", "torch triton"),
    "gpu.language": room("gpu.language", "triton"),
    "peers": room(
        "formats.layer program program.lower engine peers",
        "torch onnx onnxscript onnxruntime openvino nncf ncnn MNN rich",
    ),
    "zoo": room("formats formats.layer zoo", "torch safetensors PIL sklearn"),
    "report": room("report", "jinja2"),
    "api": room(
        "api formats formats.layer program program.lower engine accelerators training methods search export peers "
        "report",
        "torch",
    ),
    "fitting": room(
        "accelerators api formats formats.layer program program.lower engine training methods search peers fitting",
        "torch",
    ),
    "cli": room(
        "cli api fitting formats formats.layer program program.lower engine accelerators training methods search "
        "export peers zoo report version",
        "torch safetensors pydantic cyclopts rich yaml PIL",
    ),
    "main": room("cli"),
    "version": room(
        "accelerators api engine export fitting formats formats.layer methods program program.lower search training"
    ),
}


EAGER = (ROOMS["cli"], ROOMS["report"], ROOMS["gpu.language"])
"""Rooms that may load heavy packages as they are imported themselves."""


@dataclass(frozen=True)
class Import:
    """One import statement's target, by full dotted name."""

    target: str
    line: int
    lazy: bool


def room_of(module: str) -> str:
    """The room that a dotted module name (without `dovetail.`) belongs to."""
    if module in ("", "__init__"):
        return "version"
    if module == "__main__":
        return "main"
    first, *rest = module.split(".")
    if first == "formats" and rest and rest[-1] in ("layer", "recurrent", "structure"):
        return "formats.layer"
    if first == "program" and rest == ["lower"]:
        return "program.lower"
    if first == "gpu" and (rest == ["language"] or rest[-1:] == ["kernels"]):
        return "gpu.language"
    return first


def imports(source: str, module: str) -> Iterator[Import]:
    """Every import of a module, those inside functions and `TYPE_CHECKING` blocks too."""
    tree = ast.parse(source)
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            yield from (Import(_target(base, alias.name), node.lineno, id(node) in lazy) for alias in node.names)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    parents = f"dovetail.{module}".split(".")[: -node.level]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _target(base: str, name: str) -> str:
    """`from dovetail.program import lower` names a module, `from dovetail.errors import SpecError` does not."""
    path = f"{base}.{name}".replace(".", "/")
    return f"{base}.{name}" if path in MODULES or f"{path}/__init__" in MODULES else base


def violations(source: str, module: str) -> list[str]:
    """Human-readable breaches of the arrows in one module."""
    allowed = ROOMS[room_of(module)]
    return [
        f"dovetail.{module}:{use.line} imports {use.target}"
        for use in imports(source, module)
        if not _allowed(use, allowed)
    ]


def _allowed(use: Import, room: Room) -> bool:
    package, _, rest = use.target.partition(".")
    if package in sys.stdlib_module_names:
        return True
    if package == "dovetail":
        return rest.startswith("_native") or room_of(rest) in room.rooms
    return package in room.packages and (use.lazy or package not in HEAVY or room in EAGER)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_room_may(path):
    module = name_of(path) + (".__init__" if path.name == "__init__.py" and path.parent != PACKAGE else "")
    assert violations(path.read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("formats.tucker.packed", "import torch"),
        ("formats.tucker.packed", "from dovetail.formats.layer import swap"),
        ("formats.tucker.packed", "from ..layer import swap"),
        ("program.program", "def f():\n    from dovetail.program.lower import lower"),
        ("engine.session", "def f():\n    import torch"),
        ("engine.session", "from dovetail.formats.tucker.layer import TuckerConv2d"),
        ("accelerators.systolic", "import torch"),
        ("accelerators.workload", "from dovetail.program.lower import lower"),
        ("accelerators.workload", "from dovetail.engine import Session"),
        ("training.loop", "from dovetail.methods.base import Method"),
        ("files", "import numpy"),
        ("files", "from dovetail.program.program import Program"),
        ("report.page", "from dovetail.program.program import Program"),
        ("methods.penni", "import dovetail.zoo"),
        ("api", "from dovetail.cli import main"),
        ("peers.openvino", "import openvino"),
        ("export.onnx", "import onnx"),
        ("gpu.tucker.op", "import triton"),
        ("gpu.tucker.kernels", "import torch"),
        ("gpu.layers", "def f():\n    from dovetail.zoo import build"),
        ("formats.tucker.layer", "from dovetail.gpu import use_kernels"),
    ],
)
def test_the_reader_sees_a_forbidden_import(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("formats.tucker.layer", "import torch\nfrom dovetail.formats.layer import FormatConv2d"),
        ("program.lower", "import torch\nfrom dovetail.formats.layer import appear"),
        ("export.onnx", "def f():\n    import onnx"),
        ("cli.bench", "from dovetail.peers import compare"),
        ("report.page", "from dovetail import files"),
        ("gpu.language", "import triton"),
        ("gpu.tucker.settings", "def f():\n    import triton"),
    ],
)
def test_the_reader_lets_an_allowed_import_pass(module, source):
    assert violations(source, module) == []


def run(code: str, folder: Path | None = None) -> str:
    """What a fresh interpreter prints; its failure is the test's."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCK = """
import sys
blocked = {blocked!r}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def test_importing_dovetail_loads_nothing_heavy():
    out = run("import sys, dovetail; print(*sorted({m.partition('.')[0] for m in sys.modules}))")
    assert not {"torch", "numpy", "triton", "onnx", "matplotlib", "openvino", "rich"} & set(out.split())


@pytest.mark.parametrize(
    "module",
    [
        "dovetail.formats",
        "dovetail.program.program",
        "dovetail.program.store",
        "dovetail.program.reference",
        "dovetail.program.counts",
        "dovetail.engine",
        "dovetail.accelerators",
        "dovetail.report",
    ],
)
def test_it_imports_where_torch_is_not_installed(module):
    run(BLOCK.format(blocked={"torch"}) + f"import {module}")


TRAINING_ONLY = {"torch", "pydantic", "cyclopts", "rich", "jinja2", "yaml"}


def test_the_engine_runs_a_file_with_numpy_and_safetensors_only(tmp_path):
    sketch = Sketch(0)
    y = sketch.input("batch", 3, 6, 6)
    fields = {
        "tucker": {"rank_in": 2, "rank_out": 2},
        "kernel_basis": {"bases": 2, "coefficients": "sparse"},
        "sparse": {"density": 0.4},
    }
    for name in ("dense", *fields):
        packed = random_packed(name, (3, 3, 3, 3), sketch.random, **fields.get(name, {}))
        y = sketch.add("conv2d", y, packed=packed, padding=(1, 1, 1, 1), scaled=True, activation=Activation("relu"))
    y = sketch.add("mean", y, axes=(2, 3), keepdims=False)
    program = sketch.program(sketch.add("linear", y, packed=random_packed("svd", (5, 3), sketch.random, rank=2)))
    x = sketch.random.standard_normal((2, 3, 6, 6)).astype(np.float32)
    save(program, tmp_path / "net.dovetail")
    np.save(tmp_path / "x.npy", x)
    code = """
import numpy as np
from dovetail.engine import Session, native_status
session = Session("net.dovetail")
np.save("y.npy", session(np.load("x.npy")))
if native_status().available:
    session.profile(np.load("x.npy"), runs=1)
print(sorted(blocked & {name.partition(".")[0] for name in sys.modules}))
"""
    assert run(BLOCK.format(blocked=TRAINING_ONLY) + code, tmp_path).strip() == "[]"
    assert close(np.load(tmp_path / "y.npy"), reference.run(program, x))


def test_the_torch_rooms_load_no_optional_package():
    optional = {"triton", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "matplotlib", "sklearn", "PIL"}
    loaded = run(
        "import sys, dovetail.api, dovetail.gpu, dovetail.methods, dovetail.program.lower;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    assert not optional & set(loaded.split())


def test_kernels_can_be_imported_where_triton_is_not_installed():
    code = """
import torch
from dovetail.errors import GpuError
from dovetail.gpu import support, tucker_conv2d, use_kernels
from dovetail.gpu.tucker import kernels, launch
x, first, core, last = (torch.ones(shape) for shape in ((1, 3, 4, 4), (2, 3), (2, 2, 3, 3), (4, 2)))
print(support.INSTALLED, tucker_conv2d(x, first, core, last, padding=1)[0, 0, 1, 1].item())
try:
    launch.core_alone(x, core, None, None)
except GpuError as error:
    print(error)
"""
    assert run(BLOCK.format(blocked={"triton"}) + code).splitlines() == [
        "False 108.0",
        "the GPU's kernels need Triton 3.6 or newer (Linux): pip install '.[gpu]' in a checkout",
    ]


def test_public_names_are_complete():
    assert set(dovetail.__all__) == set(dovetail._WHERE)
    assert set(dovetail.__all__) <= set(dir(dovetail))


def test_what_the_design_lets_a_user_type_is_there():
    promised = {"compress", "methods", "lower", "Program", "load", "Session", "race"}
    promised |= {"export_onnx", "shrink", "reference", "simulate", "fit", "Budget"}
    assert promised <= set(dovetail.__all__)


@pytest.mark.parametrize("name", dovetail.__all__)
def test_each_public_name_loads(name):
    assert getattr(dovetail, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="compress"):
        _ = dovetail.comprss
