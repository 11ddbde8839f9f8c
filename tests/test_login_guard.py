from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.login_guard import MAX_ADDRESSES, MAX_PAIRS, LoginGuard

LIMIT = 5
GUESSER = "192.0.2.1"


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> LoginGuard:
    return LoginGuard(LIMIT, clock)


def wait_s(guard: LoginGuard, ip: str, key: str = "some-key") -> int:
    """How long the address has to wait; 0: it may try."""
    try:
        guard.check(ip, key)
    except GatewayError as refusal:
        error = refusal
    else:
        return 0
    assert error.code.code == "4008"
    assert error.retry_after_s
    return error.retry_after_s


def fail(guard: LoginGuard, ip: str, times: int = LIMIT, key: str = "guessed-key") -> None:
    for _ in range(times):
        guard.failed(ip, key)


def test_an_address_may_fail_so_often_in_a_minute(guard: LoginGuard, clock: Clock) -> None:
    """Then it is refused, whatever it says, for as long as Retry-After says; others are not."""
    for _ in range(LIMIT):
        assert wait_s(guard, GUESSER) == 0
        guard.failed(GUESSER, "guessed-key")
        clock.now += 2
    assert wait_s(guard, GUESSER) == 50
    assert wait_s(guard, "192.0.2.2") == 0
    clock.now += 49
    assert wait_s(guard, GUESSER) == 1
    clock.now += 1
    assert wait_s(guard, GUESSER) == 0
    guard.failed(GUESSER, "guessed-key")
    assert wait_s(guard, GUESSER) == 2


def test_being_refused_makes_it_no_longer(guard: LoginGuard, clock: Clock) -> None:
    """A client that keeps trying is let in when its minute is over."""
    fail(guard, GUESSER)
    for _ in range(60):
        assert wait_s(guard, GUESSER) > 0
        clock.now += 1
    assert wait_s(guard, GUESSER) == 0


def test_a_right_secret_is_refused_as_well(guard: LoginGuard) -> None:
    """A key that has not authenticated from there is not let through, though it may elsewhere."""
    guard.succeeded("192.0.2.2", "key")
    fail(guard, GUESSER)
    assert wait_s(guard, GUESSER, "key") > 0
    assert wait_s(guard, "192.0.2.2", "key") == 0


def test_neighbours_of_a_guesser_go_on(guard: LoginGuard) -> None:
    """A key that has authenticated from the address is let through, until it fails once."""
    guard.succeeded(GUESSER, "key")
    guard.succeeded(GUESSER, "other-key")
    fail(guard, GUESSER)
    assert wait_s(guard, GUESSER, "key") == 0
    guard.failed(GUESSER, "key")
    assert wait_s(guard, GUESSER, "key") > 0
    assert wait_s(guard, GUESSER, "other-key") == 0


def test_a_failure_of_a_known_key_counts(guard: LoginGuard) -> None:
    """As any other."""
    for number in range(LIMIT):
        guard.succeeded(GUESSER, f"key-{number}")
        guard.failed(GUESSER, f"key-{number}")
    assert wait_s(guard, GUESSER) > 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:0DB8:1:2:0:0:0:1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
        ("unknown", "192.0.2.1:80", False),
        ("", "::", False),
        ("a:" + "x" * 1000, "a:" + "x" * 2000, True),
        ("a\0:b", "é:", False),
    ],
)
def test_which_addresses_count_as_one(guard: LoginGuard, first: str, second: str, same: bool) -> None:
    """An IPv6 host has a /64 to itself, so that counts as one; whatever a proxy wrote is taken as it is."""
    guard.succeeded(first, "key")
    fail(guard, first)
    assert wait_s(guard, first) > 0
    assert (wait_s(guard, second) > 0) == same
    fail(guard, second)
    assert (wait_s(guard, second, "key") == 0) == same


def test_it_can_be_switched_off(clock: Clock) -> None:
    """Then nothing is kept."""
    guard = LoginGuard(0, clock)
    fail(guard, GUESSER, 100)
    guard.succeeded(GUESSER, "key")
    assert wait_s(guard, GUESSER) == 0
    assert not guard._failures
    assert not guard._pairs


class TestMemory:
    def test_addresses_past_their_minute_are_forgotten(self, guard: LoginGuard, clock: Clock) -> None:
        """As others fail."""
        for number in range(1000):
            fail(guard, f"10.0.{number // 256}.{number % 256}", 1)
            clock.now += 1
            assert len(guard._failures) <= 61

    def test_the_oldest_addresses_are_forgotten_first(self, guard: LoginGuard) -> None:
        """Where more fail within a minute than are kept; one that goes on failing is not among them."""
        fail(guard, GUESSER, LIMIT - 1)
        fail(guard, "192.0.2.2")
        for number in range(MAX_ADDRESSES - 2):
            guard.failed(f"number {number}", "key")
        guard.failed(GUESSER, "guessed-key")
        assert wait_s(guard, "192.0.2.2") > 0
        guard.failed("one more", "key")
        assert len(guard._failures) == MAX_ADDRESSES
        assert wait_s(guard, "192.0.2.2") == 0
        assert wait_s(guard, GUESSER) > 0

    def test_the_oldest_pairs_are_forgotten_first(self, guard: LoginGuard) -> None:
        """The order is that of their last success."""
        guard.succeeded(GUESSER, "first")
        guard.succeeded(GUESSER, "second")
        for number in range(MAX_PAIRS - 2):
            guard.succeeded(f"number {number}", "key")
        guard.succeeded(GUESSER, "first")
        guard.succeeded("one more", "key")
        assert len(guard._pairs) == MAX_PAIRS
        fail(guard, GUESSER)
        assert wait_s(guard, GUESSER, "second") > 0
        assert wait_s(guard, GUESSER, "first") == 0


@given(st.lists(st.tuples(st.sampled_from([0, 0, 0.25, 1, 10, 30]), st.sampled_from("ab"), st.booleans())))
def test_nobody_guesses_more_often_than_may_be(tries: list[tuple[float, str, bool]]) -> None:
    """Of each address, the failures of any 60 s; and whoever waits as long as it was told may try."""
    clock = Clock()
    guard = LoginGuard(3, clock)
    failures: dict[str, list[float]] = {"a": [], "b": []}

    def failed_within(ip: str, window_s: float) -> int:
        return sum(at > clock.now - window_s for at in failures[ip])

    for pause, ip, waits in tries:
        clock.now += pause
        told = wait_s(guard, ip)
        if told:
            assert failed_within(ip, 61) >= 3
            if not waits:
                continue
            clock.now += told
            assert wait_s(guard, ip) == 0
        guard.failed(ip, "guessed-key")
        failures[ip].append(clock.now)
        assert failed_within(ip, 60) <= 3
