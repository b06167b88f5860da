from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dovetail.errors import TrainingError
from dovetail.methods import Thin
from dovetail.training import History, Record, Settings, evaluate, train
from dovetail.training.batches import Batches
from dovetail.training.metrics import Meter
from dovetail.training.progress import clock


def test_evaluate_counts_and_averages_over_images(data, build):
    model = build()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    uneven = [*data, (data[0][0][:3], data[0][1][:3])]
    score = evaluate(model, uneven)
    assert [module.training for module in model.modules()] == modes
    model.eval()
    logits, labels = (torch.cat(parts) for parts in zip(*[(model(x).detach(), y) for x, y in uneven]))
    assert (score.total, score.correct) == (51, int((logits.argmax(1) == labels).sum()))
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert score.accuracy == pytest.approx(100 * score.correct / 51)


def test_evaluate_without_data():
    with pytest.raises(TrainingError, match="no batch"):
        evaluate(nn.Linear(2, 2), [])


@pytest.mark.parametrize("every", [1, 3, 50])
def test_the_mean_does_not_depend_on_when_losses_are_read(every):
    losses = torch.rand(10)
    meter = Meter(every)
    for i, loss in enumerate(losses):
        assert meter.add(loss, i + 1) is None
    meter.flush()
    expected = 0.0
    for i, loss in enumerate(losses.double().tolist()):
        expected += loss * (i + 1)
    assert meter.mean == expected / 55


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_is_found(bad):
    meter = Meter(4)
    assert [meter.add(torch.tensor(v), 1) for v in (1.0, bad, 2.0, bad)] == [None, None, None, 2]


def test_history_round_trip(tmp_path):
    records = [Record("a", 1, 2, 5, 0.5, None, None, 0.1, 2.0), Record("b", 0, 0, 5, None, 91.5, 0.3, 0.0, 2.5)]
    history = History(records)
    assert History.from_json(history.to_json()) == history
    assert (history.accuracy, history.seconds, History().accuracy) == (91.5, 2.5, None)
    history.write(tmp_path / "metrics.jsonl")
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    assert str(records[1]) == "b 0/0  accuracy 91.50 %  rate 0  2 s"


def test_a_history_names_the_gpus_that_trained_some_of_it():
    def record(processor):
        return Record("a", 1, 1, 5, 0.5, None, None, 0.1, 2.0, processor=processor)

    assert History([record("CPU"), record("")]).gpus == []
    assert History([record("CPU"), record("Two"), record("One"), record("Two")]).gpus == ["One", "Two"]


def test_a_run_says_what_computed_it(data, build):
    history = train(build(), Thin(epochs=1), data, settings=Settings(progress=False))
    assert [record.processor for record in history.records] == ["CPU"]


@pytest.mark.parametrize(
    "options", [{"precision": "f16"}, {"label_smoothing": 1.0}, {"threads": 0}, {"checkpoint_minutes": -1}]
)
def test_impossible_settings(options):
    with pytest.raises(TrainingError, match=next(iter(options))):
        Settings(**options)


def test_batches_of_a_loader_without_length_are_counted(data):
    class Stream:
        def __iter__(self):
            return iter(data)

    batches = Batches(Stream())
    assert batches.count == 6
    assert [y.tolist() for _, y in batches.epoch(3, start=4)] == [y.tolist() for _, y in data[4:]]


def test_data_that_ends_after_one_epoch_or_is_empty_is_refused(data):
    with pytest.raises(TrainingError, match="only once"):
        Batches(iter(data))
    with pytest.raises(TrainingError, match="no batch"):
        Batches([])


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3700, "1:01:40")])
def test_clock(seconds, text):
    assert clock(seconds) == text
