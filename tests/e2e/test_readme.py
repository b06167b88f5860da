"""What the README shows runs as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

import dovetail

ROOT = Path(dovetail.__file__).parents[2]


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def lines_of(code: str) -> int:
    return sum(1 for line in code.splitlines() if line and not line.startswith(("import ", "from ")))


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    (code,) = blocks(ROOT / "README.md")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    classes = capsys.readouterr().out.split()
    assert (tmp_path / "digits.dovetail").is_file()
    assert len(classes) >= 64
    assert lines_of(code) <= 10


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert float(capsys.readouterr().out.split()[-1]) < 1e-4


PAGES = {page.relative_to(ROOT / "docs").as_posix(): page for page in sorted((ROOT / "docs").rglob("*.md"))}
THEN = {
    "accelerators/index.md": "assert trace.macs + trace.gated_macs == sum(layer.dense_macs for layer in layers)",
    "counting.md": "table('net.dovetail')",
    "engine.md": "assert y.shape == (1, 10)",
    "file-format.md": "assert describe('net.dovetail', x).shape == (1, 10)",
    "formats.md": "assert len(plan.resolve(build('resnet20'))) == 3 + 1",
    "gpu.md": "assert kernels.taken == ['0']\nassert y.shape == (1, 64, 56, 56)\nassert a.shape == (3, 1000)",
    "quick-start.md": "session = compress(build('resnet8', in_channels=1), loader, torch.from_numpy(x))\n"
    "assert session(x).shape == (1, 10)",
    "recurrent.md": "assert session(torch.zeros(2, 9, 32)).shape == (2, 9, 10)",
    "search.md": "assert done.program is not None and done.found.predicted['bytes'] <= done.found.limits['bytes']",
    "simulate.md": "assert done.total == both['sparten'].total\n"
    "assert {'costs.sram_factor', 'dram_bytes_per_cycle', 'fill'} <= {effect.field for effect in effects}",
}
"""What a page's code is asked after it ran: functions that it defines are called."""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The folder and the names of somebody who follows the documentation: net.dovetail, x, loader, build."""
    from dovetail.zoo import build

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    x = torch.rand(1, 1, 8, 8)
    dovetail.lower(build("resnet8", in_channels=1), x).save("net.dovetail")
    loader = [(torch.rand(4, 1, 8, 8), torch.arange(4))]
    return {"x": x.numpy(), "loader": loader, "build": build, "torch": torch}


def test_every_page_with_code_is_followed():
    assert {name for name, page in PAGES.items() if blocks(page)} == set(THEN)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "search.md" else []) for name in THEN]
)
def test_code_in_the_documentation_runs(name, reader):
    if name == "engine.md" and not dovetail.engine.native_status().available:
        pytest.skip("profiles need the native engine")
    for code in blocks(PAGES[name]):
        exec(compile(code, name, "exec"), reader)
    exec(THEN[name], reader)


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []
