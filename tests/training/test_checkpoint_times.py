"""Checkpoints come every so many steps, or as often as they take little of the time."""

import pytest

from ssl_rs.training.checkpoint_times import LEAST, SHARE, Saving


class Time:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def save(saving, time, seconds):
    with saving.timed():
        time.seconds += seconds


def test_a_number_of_steps_is_kept_whatever_the_time():
    time = Time()
    saving = Saving(3, time)
    assert [step for step in range(1, 10) if saving.is_due_after(step)] == [3, 6, 9]
    time.seconds += 1e6
    assert not saving.asks()


@pytest.mark.parametrize(("took", "pause"), [(0.1, LEAST), (LEAST * SHARE, LEAST), (5.0, 5.0 / SHARE)])
def test_without_one_checkpoints_take_a_small_share_of_the_time(took, pause):
    time = Time()
    saving = Saving(None, time)
    assert not any(saving.is_due_after(step) for step in range(1, 1000))
    time.seconds += LEAST - 1
    assert not saving.asks()
    time.seconds += 1
    assert saving.asks()
    assert not saving.asks()
    save(saving, time, took)
    assert not saving.asks()
    time.seconds += pause - 0.001
    assert not saving.asks()
    time.seconds += 0.002
    assert saving.asks()


def test_other_ranks_hear_of_it_a_step_later_and_it_is_written_once():
    time, saved = Time(), []
    saving, travels = Saving(None, time), False
    for step in range(300):
        due, travels = travels, saving.asks()
        if due:
            saved.append(step)
            save(saving, time, 0.1)
        time.seconds += 1
    assert saved == [31 + 31 * number for number in range(9)]
