"""The report page: complete, self-contained, honest about what is missing and about losses."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from dovetail.errors import DovetailError
from dovetail.report import Layer, Left, Page, Point, Ratio, Section, Variant, numbers, plot, render, write
from dovetail.report.page import lead, leading

DENSE = Variant("dense net", 93.39, 855_770, 125_500_000, 3_450_000, 2.0)
OURS = Variant("penni", 92.71, 200_000, 31_000_000, 800_000, 0.8, speedup=2.2)
POINTS = (
    Point("penni", "ours", 0.8, 92.71),
    Point("dense net", "dense", 2.0, 93.39),
    Point("half", "thin", 0.7, 91.7),
    Point("full", "thin", 1.9, 93.3),
    Point("full int8", "int8", 0.9, 93.1),
)
PAGE = Page(
    title="A network, compressed",
    variants=(DENSE, OURS),
    ratios=(Ratio("penni", "vs_f32", 2.5, "onnxruntime"), Ratio("penni", "vs_best", 0.9, "openvino-int8")),
    points=POINTS,
    sections=(Section("penni", (Layer("conv1", "kernel_basis", "rank 5", 1e-4, 2e-4, 8000, 16000),)),),
    left=(Left("penni", "fc", "a linear layer has no kernels"),),
    machine={"cpu": "a processor"},
    versions={"torch": "2.13.0"},
    command="dovetail report",
    notes=("openvino is not installed",),
)


class Outline(HTMLParser):
    """Open tags, external references and text of a page."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.references, self.words = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_is_well_formed_and_needs_nothing_else():
    html = render(PAGE)
    outline = Outline(html)
    assert outline.open == []
    assert outline.references == []
    assert not {"script", "link", "img", "iframe"} & set(outline.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_the_first_figure_is_against_the_hardest_rival():
    """0.9 times as fast as the best dense runtime of any type, and not 2.5 times as fast as one in float32."""
    assert lead(PAGE)[0] == (
        "0.90×", "as fast: slower than the original",
        "against best dense runtime of any type; 2.50× against best dense f32 runtime",
    )  # fmt: skip
    floating = replace(PAGE, ratios=PAGE.ratios[:1])
    assert lead(floating)[0] == ("2.50×", "faster", "against best dense f32 runtime")


def test_the_page_shows_everything_it_was_given():
    words = " ".join(Outline(render(PAGE)).words)
    shown = ["92.71 %", "2.20×", "−0.68", "200 k", "2.50×", "0.90×", "openvino-int8", "a linear layer has no kernels"]
    shown += ["a processor", "torch 2.13.0", "dovetail report", "openvino is not installed", "0.100 ms"]
    assert [text for text in shown if text not in words] == []


def test_names_are_escaped():
    page = replace(
        PAGE, title="<b>&", variants=(DENSE, replace(OURS, name="<script>x")), points=(Point("<i>", "ours", 1, 90),)
    )
    html = render(page)
    assert "<script>" not in html
    assert "<i>" not in html


def test_what_is_unknown_is_a_dash_and_never_a_figure():
    html = render(Page("Nothing but sizes", (Variant("dense", params=10), Variant("ours", params=5))))
    assert numbers.DASH in html
    assert "None" not in html
    assert lead(Page("", (Variant("dense", params=10), Variant("ours", params=5)))) == [
        ("2.00×", "fewer parameters", "5 left")
    ]


def test_a_loss_is_said_to_be_one():
    slower = replace(PAGE, ratios=(Ratio("penni", "vs_f32", 0.8),))
    assert lead(slower)[0][:2] == ("0.80×", "as fast: slower than the original")


def test_a_page_without_networks_is_refused():
    with pytest.raises(DovetailError, match="at least one network"):
        render(Page("Empty", ()))


def test_write_is_whole_or_not_at_all(tmp_path):
    assert write(PAGE, tmp_path / "page.html").read_text() == render(PAGE)
    with pytest.raises(DovetailError, match="cannot write"):
        write(PAGE, tmp_path / "missing" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("size", [(720, 400), (350, 330)])
def test_the_plot_is_valid_svg_with_every_mark_inside(size):
    svg = ElementTree.fromstring(plot.scatter(POINTS, *size))
    groups = list(svg.iter("g"))
    assert len(groups) == len(POINTS)
    for text in svg.iter("text"):
        assert 0 <= float(text.get("x")) <= size[0]
        assert 0 <= float(text.get("y")) <= size[1]
    assert len(list(svg.iter("polyline"))) == 1


def corners(svg: str) -> dict[str, list[tuple[float, float]]]:
    """Pixels of the corners of every curve, by its class."""
    lines = ElementTree.fromstring(svg).iter("polyline")
    return {line.get("class"): [tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in lines}


def test_the_curve_of_thin_networks_ends_in_the_dense_original():
    points = (Point("ours", "ours", 0.8, 92.0), Point("thin", "thin", 0.7, 91.7), Point("dense", "dense", 2.0, 93.4))
    axes = plot._axes(points, 720, 400)
    want = [(axes.x(0.7), axes.y(91.7)), (axes.x(2.0), axes.y(93.4))]
    ((css, found),) = corners(plot.scatter(points, 720, 400)).items()
    assert css == "curve thin"
    assert found == [pytest.approx(corner, abs=0.1) for corner in want]


def test_a_curve_passes_by_what_another_of_its_points_beats_in_both():
    points = (Point("a", "int8", 0.7, 91.7), Point("beaten", "int8", 0.8, 91.5), Point("b", "int8", 2.0, 93.4))
    ((_, found),) = corners(plot.scatter(points, 720, 400)).items()
    assert len(found) == 2
    assert len(list(ElementTree.fromstring(plot.scatter(points, 720, 400)).iter("g"))) == 3


def test_without_a_thin_network_there_is_no_curve():
    assert corners(plot.scatter((POINTS[0], POINTS[1]), 720, 400)) == {}


def test_faster_is_further_left_and_better_is_higher():
    axes = plot._axes(POINTS, 720, 400)
    assert axes.x(0.5) < axes.x(1.0) < axes.x(2.0)
    assert axes.y(93.0) < axes.y(92.0)
    assert axes.x(1.0) - axes.x(0.5) == pytest.approx(axes.x(2.0) - axes.x(1.0))


def test_labels_never_lie_on_each_other():
    crowd = tuple(Point(f"network {i}", "ours", 1.0 + 0.01 * i, 90.0 + 0.1 * i) for i in range(12))
    taken = []
    axes = plot._axes(crowd, 720, 400)
    for point in crowd:
        place = plot._free_place(point, axes, taken)
        if place is not None:
            assert not any(place.meets(other) for other in taken)
            taken.append(place)
    assert len(taken) >= 4


def test_one_point_is_a_plot_too():
    assert "<svg" in plot.scatter(POINTS[:1], 350, 330)
    assert plot.scatter((), 350, 330) == ""


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (numbers.count, 1_234_567, "1.23 M"),
        (numbers.count, 999, "999"),
        (numbers.count, 0, "0"),
        (numbers.count, None, "–"),
        (numbers.size, 3_452_064, "3.45 MB"),
        (numbers.size, 12, "12 B"),
        (numbers.milliseconds, 0.42134, "0.421 ms"),
        (numbers.milliseconds, 0.0421, "42.1 µs"),
        (numbers.milliseconds, 12.34, "12.3 ms"),
        (numbers.percent, 93.394, "93.39 %"),
        (numbers.points, -0.684, "−0.68"),
        (numbers.points, 0.1, "+0.10"),
        (numbers.times, 0.7, "0.70×"),
        (numbers.times, 12.34, "12.3×"),
    ],
)
def test_numbers_read_as_people_write_them(function, value, text):
    assert function(value) == text


def test_a_quotient_needs_both_numbers():
    assert numbers.quotient(6, 3) == 2
    assert numbers.quotient(None, 3) is None
    assert numbers.quotient(6, 0) is None


def test_the_page_leads_with_the_fastest_network_that_loses_little():
    dense, near, nearer, far = (Variant(n, accuracy=a) for n, a in (("a", 94.0), ("b", 93.0), ("c", 93.9), ("d", 92.9)))
    ratios = [Ratio(name, "vs_best", value, "peer") for name, value in (("b", 3.0), ("c", 2.0), ("d", 5.0))]
    page = Page("", (dense, far, nearer, near), ratios=tuple(ratios))
    assert leading(page) == near
    assert leading(replace(page, ratios=())) == far  # the first
    assert leading(Page("", (dense,))) is None
