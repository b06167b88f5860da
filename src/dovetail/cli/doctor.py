"""`dovetail doctor`: what this machine and installation can do."""

from __future__ import annotations

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import dovetail
from dovetail.cli.console import table
from dovetail.cli.options import DataFolder
from dovetail.errors import install_hint

OPTIONAL = {
    "sklearn": ("scikit-learn", "the digits", "data"),
    "PIL": ("pillow", "images and CIFAR-10 sheets", "data"),
    "onnx": ("onnx", "export", "export"),
    "onnxscript": ("onnxscript", "export", "export"),
    "onnxruntime": ("onnxruntime", "peer", "peers"),
    "openvino": ("openvino", "peer", "peers"),
    "nncf": ("nncf", "int8 of the OpenVINO peer", "peers"),
    "ncnn": ("ncnn", "single layers, by Winograd's filtering", "winograd"),
    "triton": ("triton", "kernels for GPUs", "gpu"),
    "MNN": ("MNN", "single layers, by Winograd's filtering", "winograd"),
}
FILES = {
    "CIFAR-10": ("cifar10_labels.npz", "cifar-10-batches-py", "cifar-10-batches-bin"),
    "MNIST": ("mnist.npz", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    "Fashion-MNIST": ("fashion_mnist.npz",),
    "spoken digits": ("fsdd.npz", "recordings"),
    "ResNet-20 weights": ("resnet20_cifar10.safetensors",),
    "ResNet-56 weights": ("resnet56_cifar10.safetensors",),
}


def doctor(*, data: DataFolder = None) -> None:
    """Print ISA, threads, native module, compiler, optional packages and data; the exit status is always 0."""
    table("Machine", ["", ""], _machine(), left=2)
    table("Optional packages", ["package", "state", "for"], [_package(name) for name in OPTIONAL], left=3)
    table("Data", ["", ""], _data(data), left=2)


def _machine() -> list[tuple[str, str]]:
    from dovetail.engine import native_status
    from dovetail.engine.cache import cache_file
    from dovetail.peers.machine import machine
    from dovetail.peers.torch_compile import compiler

    here, native = machine(), native_status()
    return [
        ("dovetail", f"{dovetail.__version__}, Python {platform.python_version()}, torch {_version('torch')}"),
        ("processor", f"{here['cpu']}, {here['cores']} usable cores, {here['memory_gib']} GiB"),
        ("instructions", " ".join(here["isa"])),
        ("engine", f"{native.reason}; {native.isa}" if native.available else native.reason),
        ("engine can run", ", ".join(native.isas) or "the numpy reference only"),
        ("tuning cache", _tuning(cache_file())),
        ("C++ compiler", compiler() or "none: torch-compile cannot race, and the engine cannot be built here"),
        ("torch threads", os.environ.get("OMP_NUM_THREADS") or f"{here['cores']} (default)"),
    ]


def _tuning(file: Path | None) -> str:
    if file is None:
        return "none: this user has no home folder; name one by DOVETAIL_CACHE"
    return str(file) if file.is_file() else f"{file} (nothing tuned yet)"


def _package(module: str) -> tuple[str, str, str]:
    """State of an optional package, imported to see whether it works: quietly, and without a call home."""
    from dovetail.peers.open_vino import silence_telemetry
    from dovetail.peers.quiet import quietly

    name, purpose, extra = OPTIONAL[module]
    if find_spec(module) is None:
        return name, f"not installed ({install_hint(extra)})", purpose
    silence_telemetry()
    try:
        with quietly():
            importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything, and saying so is this command's purpose
        return name, f"{_version(name)}, broken: {type(error).__name__}: {error}", purpose
    return name, _version(name), purpose


def _data(data: Path | None) -> list[tuple[str, str]]:
    folder = data or (Path(os.environ["DOVETAIL_DATA"]) if os.environ.get("DOVETAIL_DATA") else None)
    if folder is None:
        return [("folder", "none named; give --data or set DOVETAIL_DATA (the digits need none)")]
    if not folder.is_dir():
        return [("folder", f"{folder} does not exist")]
    found = {what: any((folder / name).exists() for name in names) for what, names in FILES.items()}
    return [("folder", str(folder)), *((what, "found" if there else "not there") for what, there in found.items())]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
