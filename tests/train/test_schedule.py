import math

import pytest

from train.schedule import lr_at


def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_step():
    rates = [lr_at(step, n_steps=100, n_warmup_steps=4, lr=2.0, min_lr_ratio=0.1) for step in range(4)]
    assert rates == [2.0 * 1 / 4, 2.0 * 2 / 4, 2.0 * 3 / 4, 2.0]


def test_first_step_after_the_warm_up_is_the_first_of_the_cosine():
    expected = 2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 1 / 96)))
    assert lr_at(4, n_steps=100, n_warmup_steps=4, lr=2.0, min_lr_ratio=0.1) == pytest.approx(expected, abs=1e-15)


def test_half_of_the_cosine_is_half_way_down():
    assert lr_at(51, n_steps=100, n_warmup_steps=4, lr=2.0, min_lr_ratio=0.1) == pytest.approx((2.0 + 0.2) / 2)


def test_last_step_has_the_smallest_rate():
    assert lr_at(99, n_steps=100, n_warmup_steps=4, lr=2.0, min_lr_ratio=0.1) == pytest.approx(2.0 * 0.1)


def test_without_warm_up_the_first_step_is_below_the_peak_by_one_step_of_the_cosine():
    assert lr_at(0, n_steps=2, n_warmup_steps=0, lr=1.0, min_lr_ratio=0.0) == pytest.approx(0.5)


def test_a_run_that_is_all_warm_up_never_divides_by_zero():
    assert [lr_at(step, n_steps=3, n_warmup_steps=3, lr=3.0, min_lr_ratio=0.0) for step in range(3)] == [1.0, 2.0, 3.0]
