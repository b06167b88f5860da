"""What a terminal shows."""

from __future__ import annotations

from dovetail.cli.console import table


def test_brackets_are_text_wherever_they_stand_in_a_table(capsys):
    table("nets[a]", ["layer[b]"], [["conv[c]"]], note="pip install '.[peers]'")
    shown = capsys.readouterr().out
    assert [word for word in ("nets[a]", "layer[b]", "conv[c]", ".[peers]") if word not in shown] == []


def test_a_table_needs_no_note(capsys):
    table("", ["layer"], [["conv"]])
    assert capsys.readouterr().out.split() == ["layer", "conv"]
