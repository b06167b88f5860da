"""Strided inputs dealt into phases: one set of planes per residue of row and column, so that taps have unit stride."""

from __future__ import annotations

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.layout import Planes, View, planar_view


def deal(
    b: Builder,
    x: View,
    rows: np.ndarray,
    columns: np.ndarray,
    halo: tuple[int, int],
    stride: tuple[int, int],
    pitch: int,
) -> tuple[View, np.ndarray]:
    """The phases that taps at `rows` and `columns` read, and each tap's offset into them.

    Args:
        b: gets the step.
        x: the input, of any strides.
        rows: of the taps, relative to the stride's grid.
        columns: likewise.
        halo: zeros around the planes of a phase.
        stride: of rows and columns.
        pitch: least distance of two rows.
    """
    (images, channels, height, width), (sh, sw) = x.shape, stride
    residues = sorted({(int(r) % sh, int(c) % sw) for r, c in zip(rows.ravel(), columns.ravel())})
    planes = Planes.of(-(-height // sh), -(-width // sw), *halo, pitch=pitch)
    dealt = planar_view((images, len(residues) * channels, planes.height, planes.width), planes, b.node, x.word)
    places = np.full((sh, sw), -1, np.int32)
    places[tuple(np.array(residues).T)] = range(len(residues))
    b.emit(
        "deal_f32", {"x": x, "places": b.constant(places)}, {"y": dealt}, phases=len(residues), images=images,
        channels=channels, height=height, width=width, stride_h=sh, stride_w=sw, x_image=x.strides[0],
        x_channel=x.strides[1], x_row=x.strides[2], x_column=x.strides[3], y_image=dealt.strides[0],
        y_channel=planes.plane, rows=planes.height, pitch=planes.pitch, lead=planes.lead, body=planes.body, word=x.word,
    )  # fmt: skip
    place = np.array([residues.index((int(r) % sh, int(c) % sw)) for r, c in zip(rows.ravel(), columns.ravel())])
    within = rows // sh * planes.pitch + columns // sw
    return dealt, place.reshape(rows.shape) * channels * planes.plane + within
