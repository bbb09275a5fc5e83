import dataclasses
import math

import pytest

from train.config import ConfigError, TrainConfig
from train.schedule import SCHEDULES, Phases, first_anneal_step, lr_at

# 100 steps: 4 of warm-up, 20 of cooldown where there is one, 10 of annealing; rates 2, 1 and 0.2.
_PHASES = Phases(n_steps=100, n_warmup_steps=4, n_cooldown_steps=20, n_anneal_steps=10, lr=2.0, min_lr=0.2, constant_lr=1.0, base_lr=0.5)


def _at(schedule, *steps, **changes):
    return [lr_at(step, schedule, dataclasses.replace(_PHASES, **changes)) for step in steps]


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "rewarm"])
def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_step(schedule):
    assert _at(schedule, 0, 1, 2, 3) == [2.0 * 1 / 4, 2.0 * 2 / 4, 2.0 * 3 / 4, 2.0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_last_step_has_the_smallest_rate(schedule):
    assert _at(schedule, 99) == [pytest.approx(0.2, abs=1e-15)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_that_is_all_warm_up_never_divides_by_zero(schedule):
    rates = _at(schedule, 0, 1, 2, n_steps=3, n_warmup_steps=3, n_cooldown_steps=0, n_anneal_steps=0, base_lr=0.0, lr=3.0)
    assert rates == [1.0, 2.0, 3.0]


def test_cosine_first_step_after_the_warm_up_half_way_and_without_warm_up():
    assert _at("cosine", 4) == [pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi / 96)), abs=1e-15)]
    assert _at("cosine", 51) == [pytest.approx((2.0 + 0.2) / 2)]
    assert _at("cosine", 0, n_steps=2, n_warmup_steps=0, min_lr=0.0) == [pytest.approx(1.0)]


def test_linear_falls_by_one_part_a_step():
    assert _at("linear", 4, 51) == pytest.approx([2.0 - 1.8 / 96, 2.0 - 1.8 * 48 / 96])


def test_wsd_is_constant_until_it_anneals_by_the_square_root():
    assert _at("wsd", 4, 89) == [2.0, 2.0]
    assert _at("wsd", 90, 94) == pytest.approx([2.0 - 1.8 * math.sqrt(1 / 10), 2.0 - 1.8 * math.sqrt(5 / 10)])


def test_infinite_cools_down_stays_and_anneals():
    assert _at("infinite", 4, 13, 23) == pytest.approx([1.0 + 0.5 * (1 + math.cos(math.pi / 20)), 1.5, 1.0])
    assert _at("infinite", 24, 89) == [1.0, 1.0]
    assert _at("infinite", 90) == pytest.approx([1.0 - 0.8 * math.sqrt(1 / 10)])


def test_an_infinite_run_that_goes_on_starts_at_the_constant_rate():
    assert _at("infinite", 0, 1, n_warmup_steps=0, n_cooldown_steps=0) == [1.0, 1.0]


def test_rewarm_starts_from_where_the_base_ended():
    assert _at("rewarm", 0, 3) == [0.5 + 1.5 * 1 / 4, 2.0]
    assert _at("rewarm", 51) == _at("cosine", 51)


def test_the_checkpoint_to_go_on_from_is_the_one_before_the_annealing():
    assert {name: first_anneal_step(name, _PHASES) for name in SCHEDULES} == {
        "cosine": None, "linear": None, "wsd": 90, "infinite": 90, "rewarm": None,
    }  # fmt: skip
    assert first_anneal_step("wsd", dataclasses.replace(_PHASES, n_anneal_steps=0)) is None


def test_lengths_are_ratios_steps_or_tokens():
    config = TrainConfig(schedule="infinite", seq_len=10, global_batch=10, warmup_ratio=0.05, cooldown_ratio=None, cooldown_steps=7)
    phases = dataclasses.replace(config, anneal_ratio=None, anneal_tokens=1_050).phases(110)
    assert (phases.n_warmup_steps, phases.n_cooldown_steps, phases.n_anneal_steps) == (6, 7, 11)  # 5.5 and 10.5 rounded up
    assert (phases.lr, phases.min_lr, phases.constant_lr) == (3e-5, 3e-5 * 0.1, 3e-5 * 0.5)


def test_phases_that_are_longer_than_the_run_are_refused():
    config = TrainConfig(schedule="infinite", warmup_ratio=None, warmup_steps=5)
    assert config.phases(10).n_steps == 10
    with pytest.raises(ConfigError, match="warm-up 5, cooldown 2 and annealing 4 are more than the 10 steps of the run"):
        dataclasses.replace(config, anneal_ratio=None, anneal_steps=4).phases(10)
    assert dataclasses.replace(config, schedule="cosine").phases(3).n_warmup_steps == 5  # its run may end within the warm-up
