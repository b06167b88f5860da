"""One self-contained HTML page from plain data: no network, no script."""

from __future__ import annotations

from dovetail.report.data import Layer, Left, Page, Point, Ratio, Section, Variant
from dovetail.report.page import render, write

__all__ = ["Layer", "Left", "Page", "Point", "Ratio", "Section", "Variant", "render", "write"]
