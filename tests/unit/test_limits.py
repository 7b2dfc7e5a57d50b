"""How much a caller may have, as a store in memory counts it, with a clock that a test sets."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Coroutine, List, Optional, Tuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import Settings
from omniforge_chat.access import Pass, make_limiter, subject_of
from omniforge_chat.access.limits_memory import MemoryLimiter
from omniforge_chat.errors import RateLimited
from omniforge_chat.models import Allowance, Rate
from omniforge_chat.rules import SettingsError

T = TypeVar("T")

NOON = 1_800_014_400.0
HALF_A_DAY = 43_200
MINUTE = Rate(60, 60)


def done(work: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits, without an event loop, which would take its time."""
    try:
        work.send(None)
    except StopIteration as stopped:
        result: T = stopped.value
        return result
    raise AssertionError("it waits")


class Limits:
    """A store whose clock a test sets, and callers who all have the same allowance."""

    def __init__(self, allowance: Allowance, max_subjects: int = 100) -> None:
        self.now = NOON
        self.store = MemoryLimiter(max_subjects=max_subjects, clock=lambda: self.now)
        self.allowance = allowance

    def enter(self, subject: str = "id:a", *, reads: bool = False) -> Pass:
        return done(self.store.enter(subject, self.allowance, reads=reads))

    def refusal(self, subject: str = "id:a", *, reads: bool = False) -> RateLimited:
        with pytest.raises(RateLimited) as refused:
            self.enter(subject, reads=reads)
        return refused.value

    def wait(self, subject: str = "id:a", *, reads: bool = False) -> int:
        """The wait of a request that is refused."""
        seconds = self.refusal(subject, reads=reads).retry_after
        assert seconds is not None
        return seconds

    def chat(self, tokens: int = 0) -> Optional[Pass]:
        """Begin a chat that ends at once, if it may."""
        try:
            entered = self.enter()
        except RateLimited:
            return None
        entered.leave(tokens)
        return entered


def fields(entered: Pass) -> List[str]:
    assert [name for name, _ in entered.headers] == [b"ratelimit-policy", b"ratelimit"]
    return [value.decode() for _, value in entered.headers]


def left(entered: Pass) -> int:
    """The chats that are left, as its fields say."""
    [found] = re.findall(r'"\w+";r=(\d+)', fields(entered)[1])
    return int(found)


RATES = st.builds(Rate, st.integers(1, 500), st.sampled_from([1, 7, 60, 3_600, 86_400]))


@given(
    st.builds(Rate, st.integers(1, 20), st.sampled_from([1, 7, 3_600])),
    st.lists(st.floats(0, 2), max_size=30),
)
def test_no_time_has_more_chats_than_the_rate_and_what_ran_off(
    rate: Rate, pauses: List[float]
) -> None:
    """Whatever the pattern: this is what an operator sizes a model by."""
    limits = Limits(Allowance(rate))
    passed: List[float] = []
    for pause in pauses:
        limits.now += pause * rate.seconds / rate.chats
        while limits.chat():
            passed.append(limits.now)
    for first, since in enumerate(passed):
        for number, at in enumerate(passed[first:], 1):
            assert number <= rate.chats + (at - since) * rate.chats / rate.seconds + 0.01


@given(RATES, st.lists(st.floats(0, 3), max_size=20))
def test_after_its_wait_a_chat_passes_and_a_second_earlier_none_did(
    rate: Rate, pauses: List[float]
) -> None:
    """A client that does what it is told is served, and none waits for longer than it must."""
    limits = Limits(Allowance(rate))
    for pause in [*pauses, 0.0]:
        limits.now += pause * rate.seconds / rate.chats
        while limits.chat():
            pass
        refused, wait = limits.now, limits.wait()
        if wait > 1:
            limits.now = refused + wait - 1
            assert not limits.chat()
        limits.now = refused + wait
        assert limits.chat()


@given(RATES, st.floats(0, 3))
def test_as_many_chats_pass_as_were_said_to_be_left(rate: Rate, pause: float) -> None:
    """A client may plan by it, if it is the only one of its caller."""
    limits = Limits(Allowance(rate))
    for _ in range(2):
        entered = limits.chat()
        assert entered is not None
        for expected in range(left(entered) - 1, -1, -1):
            entered = limits.chat()
            assert entered is not None
            assert left(entered) == expected
        assert f";t={limits.wait()}" in fields(entered)[1]
        limits.now += rate.seconds / rate.chats * (1 + pause)


@pytest.mark.parametrize("jump", [-10_000_000, -3_601, 10_000_000])
def test_a_clock_that_is_set_locks_nobody_out(jump: int) -> None:
    """Else a machine whose clock was an hour ahead would refuse for that hour."""
    limits = Limits(Allowance(MINUTE))
    while limits.chat():
        pass
    limits.now += jump
    for _ in range(60):
        assert limits.chat()
    assert limits.wait() == 1


def test_a_caller_with_a_smaller_rate_than_before_waits_no_longer_than_its_whole_time() -> None:
    """Rates change while the service runs, and a backlog of the old one must not outlive it."""
    limits = Limits(Allowance(Rate(1, 86_400)))
    limits.chat()
    limits.allowance = Allowance(MINUTE)
    assert limits.wait() == 1


def test_the_fields_say_policies_and_what_is_left_of_them() -> None:
    """They are those of the draft, in structured fields, which refuse what is nearly right."""
    limits = Limits(Allowance(Rate(2, 30), streams=2, tokens_per_day=10_000))
    policy = '"30s";q=2;w=30, "streams";q=2;qu="concurrent-requests"'
    assert fields(limits.enter()) == [policy, '"30s";r=1, "streams";r=1']
    assert fields(limits.enter()) == [policy, '"30s";r=0;t=15, "streams";r=0']
    refused = limits.refusal()
    assert refused.headers == {
        "RateLimit-Policy": policy,
        "RateLimit": '"30s";r=0;t=15, "streams";r=0',
    }
    assert refused.retry_after == 15
    assert str(refused) == "Your chats are limited to 2/30s; wait 15 s"
    readers = '"30s";q=2;w=30, "readers";q=2;qu="concurrent-requests"'
    assert fields(limits.enter(reads=True)) == [readers, '"30s";r=0;t=15, "readers";r=1']


def test_without_a_limit_there_are_no_fields_and_no_refusals() -> None:
    """A caller whose allowance says so has none, beside others who have."""
    limits = Limits(Allowance())
    assert all(not limits.enter().headers for _ in range(1_000))


def test_a_refused_request_takes_nothing() -> None:
    """Else a client that asks too often would never be served again."""
    limits = Limits(Allowance(Rate(2, 60), streams=1))
    entered = limits.enter()
    for _ in range(5):
        assert limits.wait() == 1  # the stream is in the way; a chat of the rate is left
    entered.leave(0)
    assert limits.chat()
    assert limits.wait() == 30


def test_a_stream_has_its_place_until_it_leaves_once() -> None:
    """A second leave of one must not free the place of another."""
    limits = Limits(Allowance(streams=2))
    first, _ = limits.enter(), limits.enter()
    assert str(limits.refusal()) == "2 of your chats may be answered at once; wait 1 s"
    first.leave(0)
    first.leave(0)
    limits.enter()
    assert limits.wait() == 1


def test_readers_have_places_of_their_own_and_take_no_chat() -> None:
    """A client whose connection broke comes back while its stream is still open."""
    limits = Limits(Allowance(Rate(1, 60), streams=1))
    limits.enter()
    reader = limits.enter(reads=True)
    assert str(limits.refusal(reads=True)) == "1 of your kept replies may be read at once; wait 1 s"
    reader.leave(0)
    limits.enter(reads=True)


def test_a_reader_that_begins_a_reply_takes_what_a_chat_takes() -> None:
    """An Idempotency-Key that is new begins a reply: else it would be a way past all limits."""
    limits = Limits(Allowance(Rate(2, 60), streams=1))
    reader = limits.enter(reads=True)
    done(reader.produce())
    assert fields(reader)[1] == '"minute";r=1, "streams";r=0'
    assert limits.wait() == 1
    other = limits.enter(reads=True)
    with pytest.raises(RateLimited):
        done(other.produce())
    assert limits.wait(reads=True) == 1
    reader.leave(0)
    done(other.produce())
    done(other.produce())
    limits.enter(reads=True)
    other.leave(0)
    assert limits.wait() == 30


def test_tokens_are_used_up_until_midnight_utc() -> None:
    """The wait is that until then, and a new day has all of them."""
    limits = Limits(Allowance(tokens_per_day=100))
    assert limits.chat(99)
    assert limits.chat(1)
    refused = limits.refusal()
    assert refused.retry_after == HALF_A_DAY
    expected = f"You have used up the 100 tokens of this day (UTC); wait {HALF_A_DAY} s"
    assert str(refused) == expected
    limits.now += HALF_A_DAY - 1
    assert limits.wait() == 1
    limits.now += 1
    assert limits.chat(100)
    assert limits.wait() == 2 * HALF_A_DAY


def test_open_streams_reserve_tokens() -> None:
    """Else a caller could begin a thousand replies with one token left."""
    limits = Limits(Allowance(tokens_per_day=2_000))
    streams = [limits.enter(), limits.enter()]
    assert limits.wait() == 1
    streams[0].leave(900)
    limits.enter()
    assert limits.wait() == 1
    streams[1].leave(1_100)
    assert limits.wait() == HALF_A_DAY


def test_who_has_no_tokens_left_still_reads_replies() -> None:
    """They are paid for."""
    limits = Limits(Allowance(tokens_per_day=100))
    limits.chat(100)
    limits.enter(reads=True).leave(0)
    assert limits.wait() == HALF_A_DAY


def test_callers_do_not_feel_each_other() -> None:
    """Each has an allowance of their own."""
    limits = Limits(Allowance(Rate(1, 60), streams=1, tokens_per_day=100))
    limits.enter("id:a").leave(100)
    assert limits.wait("id:a") == HALF_A_DAY
    limits.enter("id:b")


def test_the_limit_raced_by_200_requests_lets_exactly_that_many_pass() -> None:
    """At once, and not after another: a check and a change in two steps would let more pass."""

    async def race(allowance: Allowance, *, reads: bool = False) -> int:
        store = MemoryLimiter()
        work = [store.enter("id:a", allowance, reads=reads) for _ in range(200)]
        answers = await asyncio.gather(*work, return_exceptions=True)
        assert all(isinstance(each, RateLimited) or hasattr(each, "leave") for each in answers)
        return sum(not isinstance(each, RateLimited) for each in answers)

    assert asyncio.run(race(Allowance(Rate(50, 3_600)))) == 50
    assert asyncio.run(race(Allowance(streams=50))) == 50
    assert asyncio.run(race(Allowance(streams=50), reads=True)) == 50
    assert asyncio.run(race(Allowance(tokens_per_day=50_000))) == 50


def test_those_who_have_used_nothing_lately_are_forgotten() -> None:
    """Each address on the internet is one, and memory is bounded."""
    limits = Limits(Allowance(Rate(1, 60)), max_subjects=1_000)
    for number in range(500):
        limits.enter(f"address:{number}").leave(0)
    limits.now += 61
    for number in range(400):
        limits.enter(f"address:new{number}").leave(0)
    assert len(limits.store) < 501
    assert limits.wait("address:new399") == 60


def test_too_many_who_are_active_push_the_oldest_out() -> None:
    """Memory is bounded whatever comes; a place that is given back late does no harm."""
    limits = Limits(Allowance(Rate(1, 60), streams=1), max_subjects=10)
    passes = [limits.enter(f"address:{number}") for number in range(100)]
    assert len(limits.store) == 10
    for each in passes:
        each.leave(5)
    assert limits.wait("address:99") == 60
    limits.enter("address:0")


@pytest.mark.parametrize("active", ["stream", "reader", "tokens"])
def test_nobody_is_forgotten_who_still_has_something(active: str) -> None:
    """Else an open stream would be one that is not counted, and a day could be used up twice."""
    limits = Limits(Allowance(streams=1, tokens_per_day=5_000), max_subjects=1_000)
    entered = limits.enter("id:a", reads=active == "reader")
    if active == "tokens":
        entered.leave(5_000)
    for number in range(200):
        limits.enter(f"id:{number}").leave(0)
    assert len(limits.store) < 10
    limits.refusal("id:a", reads=active == "reader")


@pytest.mark.parametrize("subjects", [0, 1.5, None])
def test_a_bound_that_is_none_is_refused(subjects: Any) -> None:
    """It would be found out by an operator whose memory is full."""
    with pytest.raises(SettingsError, match="max_subjects"):
        MemoryLimiter(max_subjects=subjects)


@pytest.mark.parametrize(
    ("asked", "subject"),
    [
        (("key:a", "192.0.2.1"), "id:key:a"),
        (("", "192.0.2.1"), "id:"),
        ((None, "192.0.2.1"), "address:192.0.2.1"),
        ((None, ""), "address:"),
        ((None, "2001:db8:1:2:3:4:5:6"), "address:2001:db8:1:2::/64"),
        ((None, "2001:db8:1:2::"), "address:2001:db8:1:2::/64"),
        ((None, "fe80::1%eth0"), "address:fe80::/64"),
        ((None, "::ffff:192.0.2.1"), "address:192.0.2.1"),
        ((None, "::1"), "address:::/64"),
        ((None, "no:address"), "address:no:address"),
    ],
)
def test_a_request_counts_for_its_caller_or_else_its_address(
    asked: Tuple[Optional[str], str], subject: str
) -> None:
    """One household has a whole /64 of IPv6, and must not have 2**64 allowances."""
    assert subject_of(*asked) == subject


def test_there_is_a_limiter_only_if_somebody_may_be_limited() -> None:
    """Whoever limits nothing pays nothing for it."""
    assert make_limiter(Settings()) is None
    assert make_limiter(Settings(limits_required=True)) is None
    for limited in (
        Settings(rate_limit=MINUTE),
        Settings(caller_streams=1),
        Settings(tokens_per_day=1),
        Settings(api_keys_file="keys.json"),
    ):
        assert isinstance(make_limiter(limited), MemoryLimiter)
    assert isinstance(make_limiter(Settings(), callers_differ=True), MemoryLimiter)
