"""What a fit decided and came to, in figures and pictures: numbers stand where they belong, names cannot break out."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from dovetail.report import Page, Variant, fits, loglog, numbers, predictions, render, staircase
from dovetail.report.fits import Fitted
from fit_notes import RATIOS, notes, tucker

SIZES = [(720, 400), (350, 330)]


@pytest.fixture
def fitted():
    return Fitted.from_json(notes())


def planned():
    told = notes()
    del told["achieved"]
    return told


def elements(drawing, tag, css):
    """With all of the classes in `css`."""
    found = ElementTree.fromstring(drawing).iter(tag)
    return [e for e in found if set(css.split()) <= set((e.get("class") or "").split())]


def words(drawing):
    return [(e.text or "") for e in ElementTree.fromstring(drawing).iter("text")]


def boxes(drawing):
    """Where each text lies, at most: 12 pixels high, and letters as wide as those of a wide sans."""
    found = []
    for e in ElementTree.fromstring(drawing).iter("text"):
        wide = (7.4 if "label" in e.get("class") else 6.7) * len(e.text)
        left = float(e.get("x")) - {"start": 0.0, "middle": 0.5, "end": 1.0}[e.get("text-anchor")] * wide
        bottom = float(e.get("y")) + 2
        found.append(loglog.Box(left, bottom - 11, left + wide, bottom))
    return found


def crowd(count=20):
    """A fit of many layers of similar times, half of them far from their prediction."""
    told = notes()
    decisions, layers = [], {}
    for i in range(count):
        name, seconds = f"layer{i // 5}.{i % 5}.conv{i % 2 + 1}", 1e-5 * 1.15**i
        decisions.append({**told["plan"]["decisions"][i % 4], "name": name, "dense": seconds, "chosen": seconds})
        layers[name] = seconds * (1.0, 1.3, 1.02, 0.8)[i % 4]
    told["plan"]["decisions"] = decisions
    told["achieved"]["layers"] = layers
    return Fitted.from_json(told)


def ladder(channels=1024):
    """A fit whose first layer has as many lines and steps as the search has ranks."""
    told = notes()
    ranks = [16 * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if 16 * n < channels] + [channels]
    pairs = [(a, b) for a in ranks for b in ranks if (a, b) != (channels, channels)]
    candidates = [
        {"spec": tucker(a, b), "ratio": r, "low": r, "high": 1.1 * r}
        for a, b in pairs
        for r in [0.1 + (a / 32) * (b / 32) / (channels / 32) ** 2]
    ]
    told["plan"]["priced"][1] |= {"candidates": candidates, "weight": [channels, channels, 3, 3]}
    return Fitted.from_json(told)


def test_marks_stand_at_their_times(fitted):
    found = predictions.predictions(fitted)
    drawing = predictions.scatter(found, 720, 400)
    marks = elements(drawing, "g", "mark")
    assert [mark.get("class") for mark in marks] == ["mark dense", "mark ours", "mark dense", "mark dense"]
    low, high = (
        float(value)
        for value in re.findall(r'polyline class="diagonal" points="(\S+) (\S+)"', drawing)[0][0].split(",")
    )
    assert (low, high) == (52, 356)
    centres = []
    for mark in marks:
        if (rect := mark.find("rect")) is not None:
            centres.append((float(rect.get("x")) + 5, float(rect.get("y")) + 5))
        else:
            x, y = re.match(r"M(\S+) (\S+) ", mark.find("path").get("d")).groups()
            centres.append((float(x) + 8, float(y) + 6))
    # the axes are logarithmic and alike: equal factors are equal distances
    decade = (centres[2][0] - centres[0][0]) / math.log10(1e-4 / 1e-5)
    assert centres[1][0] - centres[0][0] == pytest.approx(decade * math.log10(5), abs=0.2)
    up = (centres[0][1] - centres[2][1]) / math.log10(1.02e-4 / 1.05e-5)
    assert centres[0][1] - centres[1][1] == pytest.approx(up * math.log10(7e-5 / 1.05e-5), abs=0.2)
    # and the second is above the diagonal by what it is slower than predicted
    on = 356 - (centres[1][0] - 52) / (704 - 52) * (356 - 30)
    assert on - centres[1][1] == pytest.approx(up * math.log10(1.4), abs=0.3)
    assert [mark.find("title").text for mark in marks][1] == "one: 50.0 µs predicted, 70.0 µs measured, +40%"


def test_the_band_is_ten_percent_wide(fitted):
    drawing = predictions.scatter(predictions.predictions(fitted), 720, 400)
    (band,) = elements(drawing, "polygon", "band")
    corners = [tuple(map(float, p.split(","))) for p in band.get("points").split()]
    assert len(corners) == 6
    assert all(52 <= x <= 704 and 30 <= y <= 356 for x, y in corners)
    (diagonal,) = elements(drawing, "polyline", "diagonal")
    times = [1e-5, 1.05e-5, 7e-5, 1.02e-4]
    decades = math.log10(max(times) / min(times)) + 2 * math.log10(1.3)
    assert 356 - corners[1][1] == pytest.approx((356 - 30) / decades * math.log10(1.1), abs=0.1)
    assert diagonal.get("points") == "52.0,356.0 704.0,30.0"


def test_only_layers_that_are_far_off_are_named(fitted):
    found = predictions.predictions(fitted)
    assert [one.name for one in found if one.far] == ["one"]
    labels = [e.text for e in elements(predictions.scatter(found, 720, 400), "text", "label")]
    assert labels == ["one"]
    told = predictions.summary(fitted, found)
    assert "3 of 4 layers within 10%" in told
    assert "1.03× in the middle, from 0.93× (three) to 1.40× (one)" in told


def test_layers_without_a_time_of_their_own_are_said_to_have_none():
    told = notes()
    told["achieved"]["layers"]["two"] = 0.0
    del told["achieved"]["layers"]["stem"]
    fitted = Fitted.from_json(told)
    found = predictions.predictions(fitted)
    assert [one.name for one in found] == ["one", "three"]
    assert "Not timed by themselves: stem, two." in predictions.summary(fitted, found)


def test_before_training_and_without_times_there_is_no_scatter(fitted):
    before = Fitted.from_json(planned())
    assert predictions.predictions(before) == []
    assert predictions.scatter([], 720, 400) == predictions.summary(before, []) == ""
    told = notes()
    for key in ("limits", "dense", "predicted"):
        told["plan"][key] = {"bytes": 1000.0}
    told["achieved"] |= {"bounds": {"bytes": 1000.0}, "kept": {"accuracy": False, "bytes": True}}
    sizes = Fitted.from_json(told)
    assert predictions.predictions(sizes) == []
    assert staircase.staircases(sizes) == {}
    assert fits.left_dense(sizes)[1].format == ""  # of sizes the best candidate is not known by name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_steps_stand_at_their_ranks_and_times(fitted, layer, size):
    stair = staircase.staircases(fitted)[layer]
    drawing = staircase.picture(stair, *size)
    dense, margin = (float(e.get("y1")) for e in elements(drawing, "line", "level"))
    per_decade = (margin - dense) / math.log10(1 / 0.9)
    dots = elements(drawing, "circle", "stair")
    assert len(dots) == len(stair.steps)
    steps = {step.told: step for step in stair.steps}
    for dot in dots:
        ratio = steps[dot.find("title").text].seconds / stair.dense
        assert float(dot.get("cy")) == pytest.approx(dense - per_decade * math.log10(ratio), abs=3.0)
    drawn = sorted({float(dot.get("cx")) for dot in dots})
    at = sorted({step.at for step in stair.steps})
    assert len(drawn) == len(at)
    if len(at) == 3:
        (a, b, c), (x, y, z) = at, drawn
        assert (y - x) / (z - x) == pytest.approx(math.log(b / a) / math.log(c / a), abs=0.01)


def test_a_tucker_layer_has_a_line_for_each_rank_of_its_outputs(fitted):
    stair = staircase.staircases(fitted)["one"]
    assert [line.name for line in stair.lines] == ["D2 16", "D2 32, all"]
    assert [[step.at for step in line.steps] for line in stair.lines] == [[16, 32], [16, 32, 64]]
    assert stair.strong is stair.lines[0]
    drawing = staircase.picture(stair, 720, 400)
    assert {"D2 16", "D2 32, all", "16", "32", "64", "rank of the inputs, D1 (log)"} <= set(words(drawing))
    assert len(elements(drawing, "polyline", "stair")) == 2
    assert len(elements(drawing, "line", "whisker")) == 2  # of the strong line
    assert max(step.seconds for step in stair.steps) == pytest.approx(1e-4 * max(RATIOS.values()))


@pytest.mark.parametrize("form", ["permuted_diagonal", "block_circulant"])
def test_layers_in_blocks_have_stairs_over_the_size_of_a_block(form):
    told = notes()
    spec = {"format": form, "version": 1, "values": "f32", "index": None}
    (priced,) = (one for one in told["plan"]["priced"] if "one" in one["layers"])
    priced["candidates"] = [
        {"spec": spec | {"size": size}, "ratio": 1 / size, "low": 0.9 / size, "high": 1.1 / size} for size in (2, 4, 8)
    ]
    (layer,) = (one for one in told["plan"]["decisions"] if one["name"] == "one")
    layer["spec"] = spec | {"size": 4}
    stair = staircase.staircases(Fitted.from_json(told))["one"]
    assert [[step.at for step in line.steps] for line in stair.lines] == [[2, 4, 8]]
    assert "size of a block (log)" in words(staircase.picture(stair, 720, 400))


def test_the_chosen_candidate_is_marked_and_the_levels_are_named(fitted):
    stair = staircase.staircases(fitted)["one"]
    drawing = staircase.picture(stair, 720, 400)
    (mark,) = elements(drawing, "g", "mark ours")
    x, y = re.match(r"M(\S+) (\S+) ", mark.find("path").get("d")).groups()
    dot = next(d for d in elements(drawing, "circle", "stair") if "rank in 32, rank out 16" in d.find("title").text)
    assert (float(x) + 8, float(y) + 6) == pytest.approx((float(dot.get("cx")), float(dot.get("cy"))), abs=0.11)
    assert {"chosen, 50% of dense", "dense, 100 µs", "10% less"} <= set(words(drawing))
    assert "tucker, rank in 32, rank out 16 was chosen" in stair.told
    dense = staircase.staircases(fitted)["two"]
    assert dense.chosen is None
    assert not elements(staircase.picture(dense, 720, 400), "g", "mark")
    assert "it stays dense: not needed" in dense.told


def test_the_slowest_layer_with_candidates_comes_first_and_a_changed_one_of_equals(fitted):
    assert list(staircase.staircases(fitted)) == ["one", "two", "three"]


def test_densities_have_one_line(fitted):
    stair = staircase.staircases(fitted)["three"]
    assert [line.name for line in stair.lines] == [""]
    told = words(staircase.picture(stair, 720, 400))
    assert {"25 %", "50 %", "density (log)"} <= set(told)


def test_candidates_that_cannot_be_drawn_are_left_out():
    told = notes()
    told["plan"]["priced"][1]["candidates"] = [
        {"spec": {"format": "own"}, "ratio": 0.5, "low": 0.5, "high": 0.5},
        {"spec": {"format": "own too", "density": 0.5}, "ratio": 0.5, "low": 0.5, "high": 0.5},
    ]
    told["plan"]["priced"][2]["candidates"][0]["spec"]["density"] = None
    found = staircase.staircases(Fitted.from_json(told))
    assert {name: len(one.steps) for name, one in found.items()} == {"three": 1}
    assert "<circle" in staircase.picture(found["three"], 350, 330)


@pytest.mark.parametrize("size", SIZES)
def test_words_lie_in_the_picture_and_never_on_each_other(size):
    fitted = ladder()
    stairs = staircase.staircases(fitted)
    assert len(stairs["one"].lines) == 12
    found = predictions.predictions(crowd())
    assert sum(one.far for one in found) == 10
    drawings = [predictions.scatter(found, *size), *(staircase.picture(s, *size) for s in stairs.values())]
    for drawing in drawings:
        taken = boxes(drawing)
        assert len(taken) > 8
        for i, box in enumerate(taken):
            assert loglog.Box(0, 0, *size).holds(box)
            assert not any(box.meets(other) for other in taken[i + 1 :])


def test_names_at_the_right_keep_their_distance():
    assert staircase.apart([10, 11, 40], 15, 100) == [10, 25, 40]
    assert staircase.apart([90, 95, 99], 15, 100) == [70, 85, 100]
    assert staircase.apart([], 15, 100) == []


def test_layers_left_dense_are_told_with_what_they_lack(fitted):
    stem, two, three = fits.left_dense(fitted)
    assert (stem.layer, stem.best, stem.margin, stem.reason) == ("stem", numbers.DASH, numbers.DASH, "first layer")
    assert (two.best, two.format) == ("40.0%", "tucker, rank in 16, rank out 16")
    assert (two.margin, two.short) == ("at most 90.0%", "kept by 50.0 points")
    assert (three.dense, three.best, three.short) == ("40.0 µs", "95.0%", "missed by 5.0 points")
    assert three.format == "block_sparse, density 0.25"


def test_the_outcome_says_whether_the_budget_holds(fitted):
    accuracy, latency = fits.outcome(fitted)
    assert accuracy == ("accuracy, held out", "94.00 %", numbers.DASH, "92.50 %", "missed: 1.50 points lost of 1")
    assert latency[:4] == ("latency", "0.270 ms", "0.220 ms", "0.230 ms (+4.5%)")  # 0.23 / 0.22
    assert latency[4] == "met: at most 0.256 ms (90% used), 0.72x of openvino-int8"  # 0.23 / 0.256 and 0.23 / 0.32
    assert fits.outcome(Fitted.from_json(planned())) == [
        ("latency", "0.270 ms", "0.220 ms", numbers.DASH, "at most 0.240 ms")
    ]
    told = notes()
    told["asked"]["accuracy_drop"] = None
    for key, size in (("limits", 900.0), ("dense", 4000.0), ("predicted", 880.0)):
        told["plan"][key] = {"bytes": size}
    told["achieved"] |= {"bounds": {"bytes": 900.0}, "kept": {"bytes": False}}
    accuracy, size = fits.outcome(Fitted.from_json(told))
    assert accuracy[4] == "1.50 points lost"
    assert size == ("bytes", "4.00 kB", "880 B", "1.00 kB (+13.6%)", "missed: at most 900 B (111% used)")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n: n["plan"]["decisions"][1].update(dense=-1.0), "decision about 'one', dense is -1.0 and below 0"),
        (lambda n: n["plan"]["decisions"][1].update(chosen="fast"), "'fast' and no number"),
        (lambda n: n["plan"]["decisions"][1].update(best=True), "True and no number"),
        (lambda n: n["plan"]["decisions"][1].update(spec={"rank": 3}), "names no format"),
        (lambda n: n["plan"]["priced"][1]["candidates"][0].update(low=math.nan), "times of 'x', low is nan"),
        (lambda n: n["plan"]["priced"][1]["candidates"][0].update(ratio=0), "times of 'x', ratio is 0 and not above 0"),
        (lambda n: n["plan"]["limits"].update(wishes=3), "wishes are none"),
        (lambda n: n["plan"]["limits"].update(cycles=3), "dense lack a cost"),
        (lambda n: n["plan"].update(predicted={}), "predicted lack a cost"),
        (lambda n: n["plan"]["survey"].update(rival_ms=0), "rival_ms is 0"),
        (lambda n: n["achieved"]["layers"].update(one=None), "seconds of 'one' is None"),
        (lambda n: n["achieved"].update(latency=math.inf), "achieved latency is inf"),
        (lambda n: n["achieved"]["bounds"].update(latency=0), "bound of latency is 0"),
        (lambda n: n["achieved"]["kept"].update(latency="no"), "whether latency is kept is 'no'"),
        (lambda n: n["achieved"]["kept"].pop("accuracy"), "not held against what was asked for"),
        (lambda n: n["achieved"]["bounds"].update(bytes=3), "not held against what was asked for"),
    ],
)
def test_damaged_notes_say_where(change, told):
    damaged = notes()
    change(damaged)
    with pytest.raises(ValueError, match=re.escape(told)):
        Fitted.from_json(damaged)


def test_notes_from_before_the_times_were_kept_have_no_staircase():
    told = notes()
    del told["plan"]["priced"]
    fitted = Fitted.from_json(told)
    assert staircase.staircases(fitted) == {}
    html = render(Page("A network", (Variant("dense"),), fits=(fitted,)))
    assert 'class="stair' not in html
    assert 'class="band"' in html


def test_the_page_shows_a_fit_and_nothing_without_one(fitted):
    html = render(Page("A network", (Variant("dense"), Variant("fit", 92.5)), fits=(fitted,)))
    shown = ["net (classes 10) on digits within latency=0.8x", "Formats of method tucker, chosen by the knapsack"]
    shown += [
        "A Processor, 2 threads",
        "missed by 5.0 points",
        "in a new format",
        "left dense",
        "0.72x of openvino-int8",
    ]
    assert [text for text in shown if text not in html] == []
    assert html.count('class="band"') == 2  # wide and narrow
    assert ".whisker" in html
    assert "None" not in html
    assert not re.search(r"url\(|@import|href|<script", html)
    bare = render(Page("A network", (Variant("dense"),)))
    assert "Fitted to a budget" not in bare
    assert ".whisker" not in bare


def test_the_page_draws_the_layer_that_is_asked_for(fitted):
    page = Page("A network", (Variant("dense"),), fits=(fitted,))
    assert "Time of one in 5 formats" in render(page)
    assert "Time of three in 2 formats" in render(replace(page, layer="three"))
    assert "Time of one in 5 formats" in render(replace(page, layer="of another fit"))


def test_names_are_escaped():
    told = copy.deepcopy(notes())
    bad = '<script>"&'
    for one in told["plan"]["decisions"]:
        one["name"] += bad
        one["reason"] += bad
        one["shape"] += bad
    for one in told["plan"]["priced"]:
        one["layers"] = [name + bad for name in one["layers"]]
    told["plan"]["priced"][1]["candidates"][0]["spec"]["note"] = bad
    told["achieved"]["layers"] = {name + bad: time for name, time in told["achieved"]["layers"].items()}
    told["achieved"]["rival"] = told["asked"]["budget"] = told["asked"]["recipe"]["network"]["options"]["classes"] = bad
    fitted = Fitted.from_json(told)
    html = render(Page("A network", (Variant("dense"),), fits=(fitted,)))
    assert "<script>" not in html
    assert f"one{bad}" in words(predictions.scatter(predictions.predictions(fitted), 720, 400))
    for stair in staircase.staircases(fitted).values():
        ElementTree.fromstring(staircase.picture(stair, 720, 400))
