"""What the README shows runs as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_in_the_documentation_compiles(page):
    for code in blocks(page):
        compile(code, str(page), "exec")


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []
