from __future__ import annotations

import numpy as np
import pytest
import torch

from dovetail.api import compress
from dovetail.methods import Distill, Thin
from dovetail.methods.answers import Answers


class Teacher:
    def __init__(self):
        self.asked = 0

    def __call__(self, images):
        self.asked += len(images) * (len(images) > 1)  # one alone is the made-up image
        return images.flatten(1)[:, :3] * 2


def test_an_image_is_asked_about_once_by_whoever_and_in_any_order(tmp_path):
    images, teacher = torch.randn(6, 2, 3, 3), Teacher()
    first = Answers(tmp_path / "a.sqlite", "one").ask(images, teacher)
    again = Answers(tmp_path / "a.sqlite", "one").ask(
        images.flip(0).contiguous(memory_format=torch.channels_last), teacher
    )
    assert teacher.asked == 6
    assert torch.equal(again, first.flip(0))


def test_other_teachers_and_other_images_are_other_questions(tmp_path):
    images, teacher = torch.randn(4, 2, 3, 3), Teacher()
    Answers(tmp_path / "a.sqlite", "one").ask(images, teacher)
    Answers(tmp_path / "a.sqlite", "two").ask(images, teacher)
    changed = images.clone()
    changed[2, 0, 0, 0] += 1e-6
    Answers(tmp_path / "a.sqlite", "one").ask(changed, teacher)
    assert teacher.asked == 12


def test_the_same_weights_in_other_code_are_another_teacher(tmp_path):
    images, path = torch.randn(4, 2, 3, 3), tmp_path / "a.sqlite"
    first = Answers(path, "one").ask(images, Teacher())
    second = Answers(path, "one").ask(images, lambda x: Teacher()(x).tanh())
    assert torch.equal(second, first.tanh())


def test_the_same_numbers_in_another_shape_are_another_image(tmp_path):
    images, teacher, path = torch.randn(4, 2, 3, 3), Teacher(), tmp_path / "a.sqlite"
    Answers(path, "one").ask(images, teacher)
    Answers(path, "one").ask(images.view(4, 3, 2, 3), teacher)
    assert teacher.asked == 8


def test_the_same_image_twice_in_a_batch(tmp_path):
    images, teacher = torch.randn(1, 2, 3, 3).repeat(3, 1, 1, 1), Teacher()
    answers = Answers(tmp_path / "a.sqlite", "one")
    assert torch.equal(answers.ask(images, teacher), answers.ask(images, teacher))
    assert teacher.asked == 3


def test_a_full_file_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.methods.answers.LARGEST", 1)
    images, teacher = torch.randn(2, 4, 2, 3, 3), Teacher()
    answers = Answers(tmp_path / "a.sqlite", "one")
    for _ in range(2):
        for batch in images:
            answers.ask(batch, teacher)
    assert teacher.asked == 4 + 4 + 4


def spoil(path, answers):
    path.write_text("not a database, but long enough to look at " * 10)


def drop(path, answers):
    answers.ask(torch.zeros(2, 2, 3, 3), Teacher())
    answers._table.execute("DROP TABLE answers")


def occupy(path, answers):
    path.mkdir()


@pytest.mark.parametrize("harm", [spoil, drop, occupy])
def test_a_file_that_cannot_be_used_is_told_once_and_done_without(tmp_path, caplog, harm):
    images, teacher, path = torch.randn(4, 2, 3, 3), Teacher(), tmp_path / "a.sqlite"
    answers = Answers(path, "one")
    harm(path, answers)
    for _ in range(2):
        assert torch.equal(answers.ask(images, teacher), Teacher()(images))
    assert teacher.asked == 8
    assert caplog.text.count("the teacher's answers are not kept") == 1


def test_a_damaged_answer_is_asked_for_again(tmp_path):
    images, teacher = torch.randn(4, 2, 3, 3), Teacher()
    answers = Answers(tmp_path / "a.sqlite", "one")
    first = answers.ask(images, teacher)
    answers._table.execute("UPDATE answers SET logits = x'00' WHERE image IN (SELECT image FROM answers LIMIT 1)")
    assert torch.equal(answers.ask(images, teacher), first)
    assert torch.equal(answers.ask(images, teacher), first)
    assert teacher.asked == 8


def test_nothing_is_made_before_somebody_asks(tmp_path):
    Answers(tmp_path / "new" / "a.sqlite", "one")
    assert not list(tmp_path.iterdir())


def test_a_student_learns_the_same_from_memory(build, data, tmp_path):
    def trained(answers):
        torch.manual_seed(0)
        model, calls = build(), []
        method = Distill(Thin(epochs=2), build(), answers=answers)
        method.teacher.register_forward_hook(lambda *_: calls.append(1))
        compress(model, method, train=data)
        return {name: value.numpy() for name, value in model.state_dict().items()}, len(calls)

    plain, asked = trained(None)
    first, some = trained(tmp_path / "a.sqlite")
    second, none = trained(tmp_path / "a.sqlite")
    assert asked > some > none
    for name, value in plain.items():
        np.testing.assert_array_equal(first[name], value)
        np.testing.assert_array_equal(second[name], value)
