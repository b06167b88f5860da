"""Statistics, agreement, the choice of rivals, and the JSON that is committed."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_targets import fake
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dovetail.errors import DataError, DovetailError, PeerError
from dovetail.formats.values import values_named
from dovetail.peers import PEERS, Peer, Race, Ratio, Row, Source, engine, peer_named
from dovetail.peers.agreement import accuracy, max_error, top1_agreement
from dovetail.peers.compare import AGAIN, Answers, Outcome
from dovetail.peers.judge import Judge
from dovetail.peers.machine import command, machine, portable
from dovetail.peers.ratios import Paired, paired, summarise
from dovetail.peers.samples import filled, gather, padded
from dovetail.program.program import Activation, Program
from dovetail.program.quantize import quantize
from programs import Sketch, random_packed

BLOCKS = arrays(np.float64, (4, 10), elements=st.floats(0.1, 10.0))


# Statistics


def test_summary_of_known_times():
    summary = summarise([np.arange(1.0, 6.0), np.arange(6.0, 12.0)])
    assert (summary.median, summary.p10, summary.p90, summary.runs) == (6.0, 2.0, 10.0, 11)


def test_the_claim_is_the_smaller_ratio():
    assert Paired(2.0, 1.5).value == 1.5
    assert Paired(1.5, 2.0).value == 1.5


@given(BLOCKS, st.floats(0.1, 10.0))
def test_a_target_that_takes_a_factor_longer_everywhere_gets_that_factor(ours, factor):
    got = paired(list(ours * factor), list(ours))
    assert got.median == pytest.approx(factor)
    assert got.p10 == pytest.approx(factor)


def test_a_machine_that_slows_down_for_both_does_not_change_the_ratio():
    block = np.linspace(1.0, 2.0, 20)
    slowdown = (1.0, 7.0, 1.0, 3.0)
    got = paired([3 * s * block for s in slowdown], [s * block for s in slowdown])
    assert got.median == pytest.approx(3.0)


def test_one_disturbed_pair_does_not_change_the_ratio():
    ours = [np.ones(5)] * 5
    assert paired([*[np.full(5, 2.0)] * 4, np.full(5, 900.0)], ours).median == 2.0


def test_pairs_may_hold_different_numbers_of_runs():
    assert paired([np.full(3, 4.0)], [np.full(20, 2.0)]).value == 2.0


# Agreement


def test_error_is_relative_to_the_range_of_the_wanted_output():
    want = [np.array([[0.0, 10.0]])]
    assert max_error([np.array([[0.5, 10.0]])], want) == pytest.approx(0.05)
    assert max_error(want, want) == 0.0


@pytest.mark.parametrize("got", [[np.array([[0.0, np.nan]])], [np.array([0.0, 1.0])], []], ids=["nan", "shape", "none"])
def test_outputs_that_cannot_be_compared_are_infinitely_wrong(got):
    assert max_error(got, [np.array([[0.0, 1.0]])]) == float("inf")


def test_top1_agreement_and_accuracy():
    a = [np.array([[0, 1], [1, 0], [3, 2], [0, 9]])]
    b = [np.array([[0, 1], [0, 1], [3, 2], [0, 9]])]
    assert top1_agreement(a, b) == 75.0
    assert accuracy(a, np.array([1, 1, 0])) == pytest.approx(200 / 3)


# Who is compared with whom


def outcome(times, dtypes=None, accuracies=None, references=None):
    """Every target at 1 thread with constant milliseconds."""
    dtypes, accuracies, references = dtypes or {}, accuracies or {}, references or {"dovetail": "compressed"}
    targets = {
        name: fake(name, dtype=dtypes.get(name, "f32"), reference=references.get(name, "original"))
        for name in times
        if name != AGAIN
    }
    blocks = {(name, 1): [np.full(5, float(ms))] * 3 for name, ms in times.items()}
    answers = {(name, 1): Answers(0.0, accuracy=accuracies.get(name)) for name in times}
    return Outcome(targets, blocks, answers)


def ratios(found, **kwargs):
    return {ratio.name: (ratio.peer, ratio.value) for ratio in Judge(found, "net/v", **kwargs).ratios()}


TIMES = {"dovetail": 1, "dovetail-dense": 4, "onnxruntime": 5, "openvino-f32": 4.5, "openvino-int8": 0.9}
INT8 = {"openvino-int8": "int8"}


def test_vs_f32_takes_the_best_f32_peer_and_vs_best_any_type_when_only_time_counts():
    got = ratios(outcome(TIMES, INT8))
    assert got == {
        "vs_f32": ("openvino-f32", 4.5),
        "vs_best": ("openvino-int8", 0.9),
        "vs_own_dense": ("dovetail-dense", 4.0),
    }


@pytest.mark.parametrize(
    ("ours", "int8", "rival"),
    [
        (92.0, 91.75, "openvino-int8"),  # our drop 1.0, theirs 1.25: within 0.3 of ours
        (92.0, 91.65, "openvino-f32"),  # theirs 1.35: too much lost
        (93.5, 92.75, "openvino-int8"),  # we gained: their 0.25 is held against 0 + 0.3
        (93.5, 92.5, "openvino-f32"),
    ],
)
def test_vs_best_leaves_out_a_peer_that_lost_more_than_we_and_three_tenths(ours, int8, rival):
    found = outcome(TIMES, INT8, {"dovetail": ours, "openvino-int8": int8})
    assert ratios(found, dense_accuracy=93.0)["vs_best"][0] == rival


@pytest.mark.parametrize(("images", "rival"), [(300, "openvino-int8"), (1000, "openvino-f32"), (None, "openvino-f32")])
def test_one_of_few_test_images_makes_no_loser(images, rival):
    found = outcome(TIMES, INT8, {"dovetail": 96.0, "openvino-int8": 95 - 100 / 300})
    assert ratios(found, dense_accuracy=95.0, images=images)["vs_best"][0] == rival


def test_eager_torch_is_never_a_baseline():
    assert ratios(outcome({"dovetail": 1, "torch-eager": 0.5, "onnxruntime": 2}))["vs_f32"] == ("onnxruntime", 2.0)


def test_vs_same_is_against_our_network_in_a_peer_and_nothing_else_is():
    references = dict.fromkeys(("dovetail", "onnxruntime-same", "onnxruntime-same-factored"), "compressed")
    times = {"dovetail": 1, "onnxruntime": 5, "onnxruntime-same": 3, "onnxruntime-same-factored": 2}
    assert ratios(outcome(times, references=references)) == {
        "vs_f32": ("onnxruntime", 5.0),
        "vs_best": ("onnxruntime", 5.0),
        "vs_same": ("onnxruntime-same-factored", 2.0),
    }


def test_vs_beside_is_against_the_other_network_of_ours_and_nothing_else_is():
    references = {"dovetail": "compressed", "dovetail-beside-f32": "beside"}
    found = outcome({"dovetail": 1, "onnxruntime": 5, "dovetail-beside-f32": 2}, references=references)
    assert ratios(found) == {
        "vs_f32": ("onnxruntime", 5.0),
        "vs_best": ("onnxruntime", 5.0),
        "vs_beside": ("dovetail-beside-f32", 2.0),
    }


def test_vs_int8_needs_our_dense_int8():
    dtypes = {"openvino-int8": "int8", "dovetail-dense": "int8", "dovetail": "int8"}
    (ratio,) = [r for r in Judge(outcome(TIMES, dtypes), "net/v").ratios() if r.name == "vs_int8"]
    assert (ratio.ours, ratio.peer, ratio.value) == ("dovetail-dense", "openvino-int8", 0.225)


def test_a_network_with_layers_in_floating_point_is_held_against_int8():
    dtypes = {"openvino-int8": "int8", "dovetail-dense": "f32+int8", "dovetail": "int8"}
    names = [ratio.name for ratio in Judge(outcome(TIMES, dtypes), "net/v").ratios()]
    assert {"vs_int8", "vs_own_dense"} <= set(names)


def test_own_dense_of_other_values_is_not_compared():
    assert "vs_own_dense" not in ratios(outcome({"dovetail": 1, "dovetail-dense": 3}, {"dovetail": "int8"}))


def test_the_better_thread_count_of_each_target_counts():
    found = outcome({"dovetail": 2, "onnxruntime": 5})
    found.times["dovetail", 2] = [np.full(5, 1.0)] * 3
    found.times["onnxruntime", 2] = [np.full(5, 6.0)] * 3
    found.answers.update({(name, 2): Answers(0.0) for name in ("dovetail", "onnxruntime")})
    judge = Judge(found, "net/v")
    assert ratios(found)["vs_f32"] == ("onnxruntime", 5.0)
    assert [(row.target, row.threads) for row in judge.rows() if row.case == "net/v"] == [
        ("dovetail", 2),
        ("onnxruntime", 1),
    ]
    assert {row.case for row in judge.rows()} == {"net/v", "net/v_t1", "net/v_t2"}


def test_noise_is_our_target_against_its_twin():
    (noise,) = Judge(outcome({"dovetail": 2.0, AGAIN: 2.1}), "net/v").noise()
    assert (noise.peer, noise.value) == (AGAIN, 1.05)
    assert AGAIN not in {row.target for row in Judge(outcome({"dovetail": 2.0, AGAIN: 2.1}), "net/v").rows()}


# Our own engine


def two_layers(values: str) -> Program:
    sketch = Sketch()
    x = sketch.input("batch", 6)
    for _ in range(2):
        packed = random_packed("dense", (6, 6), sketch.random)
        x = sketch.add("linear", x, packed=packed.cast(values_named(values)), activation=Activation("relu"))
    return sketch.program(x)


@pytest.mark.parametrize("values", ["f32", "bf16", "int8"])
def test_what_is_only_stored_shorter_is_computed_in_f32_and_compared_with_the_f32_dense_engine(values):
    program = two_layers(values)
    assert engine.dtype_of(program) == "f32"
    assert engine.values_of(program) == {values}
    found = outcome({"dovetail": 1, "dovetail-dense": 3}, {"dovetail": engine.dtype_of(program)})
    assert ratios(found)["vs_own_dense"] == ("dovetail-dense", 3.0)


def test_whole_numbers_are_compared_with_the_dense_engine_in_whole_numbers():
    program = two_layers("f32")
    ranges = dict.fromkeys(program.graph.tensors, (0.0, 1.0))
    assert engine.dtype_of(quantize(program, ranges)) == "int8"
    assert engine.dtype_of(quantize(program, ranges, keep=["linear0"])) == "f32+int8"


# The table of peers


def test_unknown_peers_are_refused_with_the_known_ones():
    with pytest.raises(PeerError, match="onnxruntime, openvino-f32"):
        peer_named("tensorrt")


def test_a_peer_that_is_not_installed_says_so(tmp_path):
    peer = Peer("nowhere", "f32", "fake_targets", ("no_such_distribution",))
    with pytest.raises(PeerError, match="not installed: no_such_distribution"):
        peer.target(Source(None, None), tmp_path)


def test_an_exporter_that_raises_becomes_a_reason(tmp_path):
    peer = Peer("odd", "f32", "json", ("json",))  # a module without `export`
    with pytest.raises(PeerError, match="odd: export failed: AttributeError"):
        peer.target(Source(None, None), tmp_path)


def test_int8_without_images_is_refused(tmp_path):
    from dovetail.peers.open_vino import export

    (tmp_path / "original.xml").touch()
    with pytest.raises(PeerError, match="calibrate"):
        export(Source(None, None), tmp_path, "int8")


def test_torch_compile_without_a_compiler_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(PeerError, match="torch-compile: not available: no C\\+\\+ compiler"):
        PEERS["torch-compile"].target(Source(None, None), tmp_path)


# Samples


def test_gather_takes_the_first_images_of_labelled_and_unlabelled_batches():
    batches = [(np.full((4, 2), i), np.full(4, i)) for i in range(3)]
    labelled = gather(iter(batches), 6)
    assert labelled.images.dtype == np.float32
    assert labelled.images[:, 0].tolist() == labelled.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert gather([x for x, _ in batches], 5).labels is None
    with pytest.raises(DataError, match="at least one image"):
        gather([], 5)


@given(st.integers(1, 9), st.integers(1, 5))
def test_padding_reaches_a_multiple_and_filling_the_batch(count, batch):
    images = np.arange(count, dtype=np.float32)
    more = padded(images, batch)
    assert len(more) % batch == 0
    assert 0 <= len(more) - count < batch
    assert more[:count].tolist() == images.tolist()
    assert filled(images, batch).tolist() == [i % count for i in range(batch)]


# JSON


ROW = Row("net/v", "dovetail", "f32", 1.0, 0.9, 1.2, 480, 1e-6, threads=2, ratio=1.0)
QUANTISED = Row("net/v", "openvino-int8", "int8", 2.0, 1.9, 2.2, 480, 0.1, threads=1, agreement=99.0, accuracy=91.5)
RATIO = Ratio("net/v/vs_f32", "dovetail", "openvino-f32", 1.9, 2.0, 1.9)


def race(**changes):
    return Race(
        **{
            "bench": "net_v",
            "command": "dovetail bench net.dovetail",
            "date": "2026-01-01T00:00:00+00:00",
            "machine": machine(),
            "versions": {"python": "3.11"},
            "threads": (1, 2),
            "batch": 1,
            "rows": (ROW, QUANTISED),
            "ratios": (RATIO,),
            "noise": (Ratio("net/v/noise", "dovetail", AGAIN, 0.99, 1.0, 0.99),),
            "absent": {"torch-compile": "not available: no C++ compiler"},
            **changes,
        }
    )


def test_the_file_has_the_agreed_fields(tmp_path):
    race().save(tmp_path / "new" / "net_v.json")
    data = json.loads((tmp_path / "new" / "net_v.json").read_text())
    assert set(data) == {
        "bench",
        "command",
        "date",
        "machine",
        "versions",
        "threads",
        "batch",
        "rows",
        "ratios",
        "noise",
    }
    fields = {"case", "target", "dtype", "median_ms", "p10_ms", "p90_ms", "runs", "max_error"}
    assert set(data["rows"][0]) == fields
    assert set(data["rows"][1]) == fields | {"agreement", "accuracy"}
    assert set(data["ratios"][0]) == set(data["noise"][0]) == {"case", "ours", "peer", "value", "median", "p10"}
    assert data["versions"]["torch-compile"] == "not run: not available: no C++ compiler"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net_v.json"]


def test_the_table_leaves_reasons_as_they_are():
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(race(absent={"onnxruntime": "not installed: pip install '.[peers]'"}).table())
    assert "pip install '.[peers]'" in console.export_text()


def test_a_race_about_time_only_says_so(tmp_path):
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(race(time_only=True).table())
    assert "time only" in console.export_text()
    assert race(time_only=True).to_json()["time_only"] is True
    assert "time_only" not in race().to_json()


def test_conditions_are_named_and_recorded():
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(race(conditions=("cold", "busy")).table())
    assert "cold, busy" in console.export_text()
    assert race(conditions=("cold",)).to_json()["conditions"] == ["cold"]
    assert "conditions" not in race().to_json()


def test_a_target_with_a_long_tail_is_named_unless_a_neighbour_was_wanted():
    from rich.console import Console

    def told(**changed):
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(race(**changed).table())
        return console.export_text()

    rows = race().rows
    long = (replace(rows[0], p90_ms=3.0 * rows[0].median_ms), *rows[1:])
    assert "uneven" not in told()
    assert f"uneven: a tenth of {rows[0].target}'s runs took 3.0 times the median" in told(rows=long)
    assert "uneven" not in told(rows=long, conditions=("busy",))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "taken.json").mkdir()
    for path in ("file/x.json", "taken.json"):
        with pytest.raises(DovetailError, match="cannot write"):
            race().save(tmp_path / path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.json"]


def test_the_table_names_targets_ratios_noise_and_absent_peers():
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(race().table())
    text = console.export_text()
    for word in ("openvino-int8", "91.50 %", "vs_f32 1.90x (openvino-f32)", "noise", "torch-compile: not available"):
        assert word in text


def test_a_ratio_is_found_by_name_or_is_none():
    assert race().ratio("vs_f32") == RATIO
    assert race().ratio("vs_same") is None


def test_the_machine_says_what_matters_and_no_names(monkeypatch):
    import socket

    found = machine()
    assert set(found) == {"cpu", "cores", "isa", "engine_isa", "memory_gib", "kernel"}
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert re.fullmatch(r"[A-Za-z]+ [\d.]+", found["kernel"])
    assert socket.gethostname() not in json.dumps(found)


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("results/net.dovetail", "results/net.dovetail"),
        ("{here}/results/net.dovetail", "results/net.dovetail"),
        ("/secret/place/net.dovetail", "net.dovetail"),
        ("../secret/net.dovetail", "../secret/net.dovetail"),
    ],
)
def test_paths_are_recorded_so_that_they_mean_the_same_elsewhere(tmp_path, monkeypatch, given, recorded):
    monkeypatch.chdir(tmp_path)
    assert portable(given.format(here=tmp_path)) == recorded


def test_the_command_keeps_no_absolute_paths(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/dovetail", "bench", "/secret/net.dovetail", "--batch", "1"])
    assert command() == "dovetail bench net.dovetail --batch 1"
    monkeypatch.setattr("sys.argv", ["/somewhere/dovetail/__main__.py", "bench", "net.dovetail"])
    assert command() == "python -m dovetail bench net.dovetail"
