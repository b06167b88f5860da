"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()) -> str:
    """A line for each row; the columns named in `numeric` are aligned to the right."""
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    lines.insert(1, f"|{'|'.join('---:' if column in numeric else '---' for column in columns)}|")
    return "\n".join(lines) + "\n"
