"""How long a step waits before it is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.core.policy import DEFAULT_PLACEMENT, DEFAULT_POLICY, MAX_DELAY_S, Placement, Policy


def test_without_options_a_step_is_tried_once_at_once_and_catches_nothing() -> None:
    assert DEFAULT_POLICY.tries == 1
    assert DEFAULT_POLICY.delay_s(1, 0.5) == 0.0
    assert not DEFAULT_POLICY.catch
    assert DEFAULT_POLICY.timeout_s is None
    assert DEFAULT_PLACEMENT.num_cpus == 1.0


def test_the_wait_grows_by_the_back_off() -> None:
    policy = Policy(tries=5, retry_delay_s=2.0, retry_backoff=3.0)
    assert [policy.delay_s(tried, 0.9) for tried in (1, 2, 3, 4)] == [2.0, 6.0, 18.0, 54.0]


def test_a_back_off_below_one_makes_the_wait_shorter() -> None:
    policy = Policy(tries=5, retry_delay_s=8.0, retry_backoff=0.5)
    assert [policy.delay_s(tried, 0.0) for tried in (1, 2, 3)] == [8.0, 4.0, 2.0]


def test_the_jitter_makes_the_wait_longer_by_a_share_of_it() -> None:
    policy = Policy(tries=5, retry_delay_s=10.0, retry_jitter=0.5)
    assert policy.delay_s(1, 0.0) == 10.0
    assert policy.delay_s(1, 0.5) == 12.5
    assert 14.9 < policy.delay_s(1, 0.999) < 15.0


@pytest.mark.parametrize("tried", [30, 1_000, 2_000_000])
def test_no_wait_is_longer_than_a_month(tried: int) -> None:
    policy = Policy(tries=tried + 1, retry_delay_s=1.0, retry_backoff=2.0, retry_jitter=1.0)
    assert policy.delay_s(tried, 0.99) == MAX_DELAY_S


@pytest.mark.parametrize("tried", [1, 1_000, 2_000_000])
def test_without_a_delay_no_back_off_makes_one(tried: int) -> None:
    assert Policy(tries=tried + 1, retry_backoff=2.0).delay_s(tried, 0.99) == 0.0


@given(
    delay=st.floats(0, 1e9),
    backoff=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    tried=st.integers(1, 10_000),
    luck=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_never_negative_and_never_endless(
    delay: float, backoff: float, jitter: float, tried: int, luck: float
) -> None:
    policy = Policy(retry_delay_s=delay, retry_backoff=backoff, retry_jitter=jitter)
    assert 0.0 <= policy.delay_s(tried, luck) <= MAX_DELAY_S


def test_equal_placements_are_one_key() -> None:
    first = Placement(num_gpus=1.0, resources=(("disk", 2.0),), env_vars=(("A", "1"),))
    second = Placement(num_gpus=1.0, resources=(("disk", 2.0),), env_vars=(("A", "1"),))
    assert {first: 1}[second] == 1
    assert first != Placement(num_gpus=1.0)
