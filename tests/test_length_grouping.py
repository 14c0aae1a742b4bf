"""The order in which rows are trained on: which rows make a step, and which step comes when."""

import numpy as np
import pytest

from nbadapt.parts import LengthGroupedSampler, TrainingConfig

LENGTHS = np.random.default_rng(0).integers(1, 500, 1003).tolist()


def order(seed: int = 0, epoch: int = 0, lengths: list[int] = LENGTHS, **settings: int) -> list[int]:
    config = TrainingConfig(**{"batch_size": 4, "gradient_accumulation_steps": 2, **settings})
    sampler = LengthGroupedSampler(lengths, config, seed)
    sampler.epoch = epoch
    return list(sampler)


def steps(rows: list[int], size: int = 8) -> list[list[int]]:
    return [[LENGTHS[i] for i in rows[at : at + size]] for at in range(0, len(rows), size)]


def test_every_row_comes_once_an_epoch():
    assert sorted(order()) == list(range(len(LENGTHS)))


def test_a_step_has_rows_of_similar_length():
    apart = np.mean([np.ptp(step) for step in steps(order())])
    at_random = np.mean([np.ptp(step) for step in steps(np.random.default_rng(1).permutation(len(LENGTHS)).tolist())])
    assert apart < at_random / 10


def test_long_and_short_steps_take_turns_at_random():
    """A correlation with the step before that n independent draws have in 1 of 1,000 cases only: 3.29 / sqrt(n)."""
    means = [np.mean(step) for step in steps(order())[:-1]]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 3.29 / np.sqrt(len(means) - 1)


def test_the_step_of_fewer_rows_is_the_last():
    sizes = [len(step) for step in steps(order())]
    assert sizes == [8] * 125 + [3]


def test_seed_and_epoch_alone_decide_the_order():
    assert order(3, 1) == order(3, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_few_rows_come_too(rows):
    assert sorted(order(lengths=LENGTHS[:rows])) == list(range(rows))
