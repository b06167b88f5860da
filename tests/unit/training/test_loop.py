from __future__ import annotations

import json
import logging
import os
import signal

import pytest
import torch
from torch import nn

from dovetail import files
from dovetail.errors import Interrupted, TrainingError
from dovetail.methods.base import Phase
from dovetail.training import Settings, evaluate, train
from dovetail.training.checkpoint import Checkpoints
from dovetail.training.interrupt import interruptible


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_verbs_come_in_the_documented_order(logged, build, data):
    hooks = logged(Phase("a", 2, 0.1), Phase("nothing", 0, 0.1), Phase("b", 1, 0.1))
    train(build(), hooks, data[:2])
    step = ["loss", "before_step", "after_step"]
    epochs = [[f"before_epoch {e}", *step, *step, f"after_epoch {e}"] for e in (0, 1)]
    assert hooks.calls == [
        *("begin a", *epochs[0], *epochs[1], "end a"),
        *("begin nothing", "end nothing"),
        *("begin b", *epochs[0], "end b"),
    ]
    assert hooks.steps_per_epoch == 2


def test_sgd_takes_the_steps_of_the_textbook(logged, build, data):
    """Nesterov momentum, decay and the schedule, written out by hand for one weight matrix."""
    images, labels = data[0]
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    weight, velocity = model[1].weight.detach().clone(), torch.zeros(3, 16)
    for step in range(4):
        w = weight.clone().requires_grad_()
        nn.functional.cross_entropy(images.flatten(1) @ w.T, labels, label_smoothing=0.1).backward()
        gradient = w.grad + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.5 * (0.1 if step >= 2 else 1) * (0.1 if step >= 3 else 1) * (gradient + 0.9 * velocity)
    hooks = logged(Phase("p", 4, 0.5, schedule="step", weight_decay=0.01))
    train(model, hooks, [data[0]], settings=Settings(label_smoothing=0.1))
    torch.testing.assert_close(model[1].weight.detach(), weight)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("precision", "channels_last"), [("f32", False), ("bf16", True)])
def test_a_small_network_learns(logged, build, data, optimizer, precision, channels_last):
    model, rate = build(), {"sgd": 0.05, "adamw": 0.01}[optimizer]
    hooks = logged(Phase("p", 25, rate, optimizer=optimizer, schedule="one-cycle"))
    settings = Settings(precision=precision, channels_last=channels_last)
    history = train(model, hooks, data, data, settings)
    assert history.accuracy > 90
    assert history.records[-1].loss < 0.5 * history.records[0].loss
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) or not channels_last


def test_frozen_parameters_do_not_move(logged, build, data):
    model = build()
    model[0].weight.requires_grad_(False)
    before = weights(model)
    train(model, logged(Phase("p", 2, 0.1)), data)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[5].weight, before["5.weight"])


def test_records_describe_the_network_that_the_phase_leaves(logged, build, data, tmp_path):
    class Zeroing(logged):
        def end(self, phase, model):
            nn.init.zeros_(model[5].weight)

    model = build()
    phases = Phase("a", 2, 0.1, schedule="constant"), Phase("b", 0, 0.1)
    history = train(model, Zeroing(*phases), data, data, Settings(run=tmp_path))
    assert [(r.phase, r.epoch, r.epochs, r.step) for r in history.records] == [
        ("a", 1, 2, 6),
        ("a", 2, 2, 12),
        ("b", 0, 0, 12),
    ]
    assert [r.learning_rate for r in history.records] == [0.1, 0.1, 0.0]
    score = evaluate(model, data)
    assert [r.accuracy for r in history.records[1:]] == [score.accuracy, score.accuracy]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.to_json()


def test_one_log_line_per_epoch(logged, build, data, caplog):
    with caplog.at_level(logging.INFO, "dovetail.training"):
        train(build(), logged(Phase("only", 3, 0.1)), data, data)
    lines = [record.getMessage() for record in caplog.records]
    assert [line[:8] for line in lines] == ["only 1/3", "only 2/3", "only 3/3"]
    assert ["eta" in line for line in lines] == [True, True, False]


def test_a_bar_is_shown_on_a_terminal(logged, build, data, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train(build(), logged(Phase("only", 2, 0.1)), data, data)
    assert "only 2/2" in capsys.readouterr().err
    train(build(), logged(Phase("only", 2, 0.1)), data, data, Settings(progress=False))
    assert capsys.readouterr().err == ""


def test_the_loss_that_is_no_number_is_named_and_good_weights_are_kept(logged, build, data, tmp_path):
    poisoned = list(data)

    class Poisoning(logged):
        def after_epoch(self, epoch):
            poisoned[3] = (torch.full_like(data[3][0], torch.nan), data[3][1])

    with pytest.raises(
        TrainingError, match=r"phase 'p', epoch 2, batch 4; the last good checkpoint is .*000001"
    ) as error:
        train(build(), Poisoning(Phase("p", 3, 0.1)), poisoned, settings=Settings(run=tmp_path))
    state = Checkpoints(tmp_path).load()
    assert state["position"] == [0, 1, 0, 6]
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert "\n" not in str(error.value)


def test_without_a_run_folder_the_message_says_so(logged, build, data):
    broken = [(torch.full_like(images, torch.inf), labels) for images, labels in data]
    with pytest.raises(TrainingError, match="epoch 1, batch 1; nothing is kept"):
        train(build(), logged(Phase("p", 1, 0.1)), broken)


def test_weights_that_are_not_finite_are_never_saved(logged, build, data, tmp_path):
    class Breaking(logged):
        def end(self, phase, model):
            nn.init.constant_(model[5].bias, torch.nan)

    with pytest.raises(TrainingError, match=r"'5.bias' has NaN or Inf in phase 'p'"):
        train(build(), Breaking(Phase("p", 1, 0.1)), data, settings=Settings(run=tmp_path))
    state = Checkpoints(tmp_path).load()
    assert state["position"] == [0, 1, 0, 6]
    assert state["model"]["5.bias"].isfinite().all()


class Killed(Exception):
    pass


def killed_at(hooks, step):
    """Hooks that die after a step, as a crash would."""

    class Dying(hooks):
        seen = 0

        def after_step(self):
            Dying.seen += 1
            if Dying.seen == step:
                raise Killed

    return Dying


PHASES = (
    Phase("a", 2, 0.1, warmup=0.5),
    Phase("b", 1, 0.01, optimizer="adamw"),
    Phase("c", 1, 0.1, schedule="one-cycle"),
)


@pytest.mark.parametrize(
    ("step", "kind", "channels_last"),
    [
        *[(1, "list", False), (4, "list", True), (7, "list", False), (13, "list", True), (19, "list", False)],
        *[(4, "shuffled", False), (12, "shuffled", True), (18, "shuffled", False), (24, "shuffled", True)],
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(logged, build, data, tmp_path, step, kind, channels_last):
    if kind == "shuffled":
        dataset = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*data)))
        data = torch.utils.data.DataLoader(dataset, 8, shuffle=True)
    settings = {"seed": 5, "channels_last": channels_last}
    whole = build()
    expected = train(whole, logged(*PHASES), data, data, Settings(**settings))
    settings = Settings(run=tmp_path, checkpoint_minutes=0, **settings)
    with pytest.raises(Killed):
        train(build(), killed_at(logged, step)(*PHASES), data, data, settings)
    torch.manual_seed(12345)
    model, hooks = build(), logged(*PHASES)
    history = train(model, hooks, data, data, settings)
    assert same(weights(model), weights(whole))
    assert hooks.calls.count("loss") == 24 - max(step - 1, 0)
    assert [(r.loss, r.accuracy) for r in history.records] == [(r.loss, r.accuracy) for r in expected.records]


def test_a_run_that_dies_in_the_hard_projection_resumes_before_it(logged, build, data, tmp_path):
    class Dying(logged):
        def end(self, phase, model):
            raise Killed

    phases, whole = (Phase("a", 2, 0.1), Phase("b", 1, 0.1)), build()
    expected = train(whole, logged(*phases), data, data)
    with pytest.raises(Killed):
        train(build(), Dying(*phases), data, data, Settings(run=tmp_path))
    model, hooks = build(), logged(*phases)
    history = train(model, hooks, data, data, Settings(run=tmp_path))
    assert hooks.calls[:3] == ["begin a", "end a", "begin b"]
    assert same(weights(model), weights(whole))
    timeless = [[{**record, "seconds": 0} for record in done.to_json()] for done in (history, expected)]
    assert timeless[0] == timeless[1]


def test_a_truncated_checkpoint_costs_one_step_and_no_more(logged, build, data, tmp_path, caplog):
    whole, settings = build(), Settings(run=tmp_path, checkpoint_minutes=0)
    train(whole, logged(*PHASES), data)
    with pytest.raises(Killed):
        train(build(), killed_at(logged, 10)(*PHASES), data, settings=settings)
    newest = Checkpoints(tmp_path).files()[-1]
    os.truncate(newest, newest.stat().st_size // 2)
    model, hooks = build(), logged(*PHASES)
    train(model, hooks, data, settings=settings)
    assert "is damaged" in caplog.text
    assert hooks.calls.count("loss") == 24 - 8
    assert same(weights(model), weights(whole))


def test_a_loader_with_epochs_is_entered_at_the_right_place(logged, build, data, tmp_path):
    asked = []

    class Epochs(list):
        def epoch(self, number, start=0):
            asked.append((number, start))
            return iter(self[start:])

    loader, settings = Epochs(data), Settings(run=tmp_path, checkpoint_minutes=0)
    with pytest.raises(Killed):
        train(build(), killed_at(logged, 16)(*PHASES), loader, settings=settings)
    asked.clear()
    train(build(), logged(*PHASES), loader, settings=settings)
    assert asked == [(0, 0), (2, 3), (3, 0)]  # the first is the look for the fingerprint


def test_a_finished_run_answers_at_once(logged, build, data, tmp_path):
    settings = Settings(run=tmp_path)
    first = build()
    history = train(first, logged(*PHASES), data, data, settings)
    again, hooks = build(), logged(*PHASES)
    assert train(again, hooks, data, data, settings) == history
    assert hooks.calls == []
    assert same(weights(again), weights(first))


@pytest.mark.parametrize("part", ["settings", "phases", "data", "method", "model", "weights"])
def test_the_folder_of_another_run_is_refused(logged, build, data, tmp_path, part):
    train(build(), logged(Phase("p", 1, 0.1)), data, settings=Settings(run=tmp_path), identity={"method": "x"})
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) if part == "model" else build()
    if part == "weights":
        model[1].running_mean[2] += 1e-3
    hooks = logged(Phase("p", 1, 0.2 if part == "phases" else 0.1))
    other = [data[1], *data[1:]] if part == "data" else data
    settings = Settings(run=tmp_path, seed=int(part == "settings"), threads=1)
    with pytest.raises(TrainingError, match=rf"holds another run \(its {part}( and weights)? differ"):
        train(model, hooks, other, settings=settings, identity={"method": "y" if part == "method" else "x"})


def test_a_run_folder_that_says_less_is_resumed_with_a_word(logged, build, data, tmp_path, caplog):
    """Folders that were written before runs remembered their start weights."""
    whole, settings = build(), Settings(run=tmp_path, checkpoint_minutes=0)
    train(whole, logged(*PHASES), data)
    with pytest.raises(Killed):
        train(build(), killed_at(logged, 10)(*PHASES), data, settings=settings)
    state = Checkpoints(tmp_path).load()
    del state["fingerprint"]["weights"]
    Checkpoints(tmp_path).save(state)
    model, hooks = build(), logged(*PHASES)
    with caplog.at_level(logging.INFO, "dovetail.training"):
        train(model, hooks, data, settings=settings, identity={"network": {"name": "small"}})
    assert "does not say its network and weights; not compared" in caplog.text
    assert 0 < hooks.calls.count("loss") < 24
    assert same(weights(model), weights(whole))
    with pytest.raises(TrainingError, match="network differ"):
        train(build(), logged(*PHASES), data, settings=settings, identity={"network": {"name": "other"}})


def test_interruption_saves_and_says_how_to_go_on(logged, build, data, tmp_path):
    class Pressing(logged):
        def after_step(self):
            if self.calls.count("loss") == 8:
                os.kill(os.getpid(), signal.SIGINT)

    whole = build()
    train(whole, logged(Phase("p", 2, 0.1)), data)
    settings, before = Settings(run=tmp_path), signal.getsignal(signal.SIGINT)
    with pytest.raises(
        TrainingError, match=r"interrupted in phase 'p', epoch 2, batch 2; .*000002.*resume with the same"
    ):
        train(build(), Pressing(Phase("p", 2, 0.1)), data, settings=settings)
    assert signal.getsignal(signal.SIGINT) is before
    model = build()
    train(model, logged(Phase("p", 2, 0.1)), data, settings=settings)
    assert same(weights(model), weights(whole))


def test_interruption_at_the_very_end_is_not_forgotten(logged, build, data, tmp_path):
    class Pressing(logged):
        def end(self, phase, model):
            super().end(phase, model)
            os.kill(os.getpid(), signal.SIGINT)

    whole, model, again = build(), build(), logged(Phase("p", 1, 0.1))
    train(whole, logged(Phase("p", 1, 0.1)), data)
    with pytest.raises(Interrupted, match=r"interrupted when all was trained; .*000002.*resume with the same"):
        train(build(), Pressing(Phase("p", 1, 0.1)), data, settings=Settings(run=tmp_path))
    assert len(train(model, again, data, settings=Settings(run=tmp_path)).records) == 1
    assert again.calls == []
    assert same(weights(model), weights(whole))


def test_the_second_interruption_does_not_wait():
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_threads_are_put_back(logged, build, data):
    before = torch.get_num_threads()
    seen = []

    class Looking(logged):
        def after_step(self):
            seen.append(torch.get_num_threads())

    train(build(), Looking(Phase("p", 1, 0.1)), data, settings=Settings(threads=2))
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_a_folder_in_which_another_training_runs_is_refused_and_left_alone(logged, build, data, tmp_path):
    train(build(), logged(*PHASES), data, settings=Settings(run=tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with files.locked(tmp_path), pytest.raises(TrainingError, match="another process works in"):
        train(build(), logged(*PHASES), data, settings=Settings(run=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
