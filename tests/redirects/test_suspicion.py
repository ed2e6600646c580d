# Law of this file: who comes back is answered inline, once and at once; a fleet that merely asks
# the same, whose downloads do not fail, is sent elsewhere as before.

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirects.acceptance import spread_of
from redirects.suspicion import (
    PER_ADDRESS,
    TABLE_SIZE,
    Again,
    Asker,
    MemoryTable,
    Suspicions,
    never,
)

ONE, TWO = spread_of("one"), spread_of("two")
WINDOW = 30.0
SECRET = b"s" * 32


def asker(address: str = "192.0.2.7", question: str = "clone", *traits: str) -> Asker:
    """Somebody who asks something."""
    return Asker.of(address, traits, question, secret=SECRET)


def well(target: int) -> bool:
    """Of no target."""
    del target
    return False


def ill(target: int) -> bool:
    """Of the first one."""
    return target == ONE


def again(
    suspicions: Suspicions,
    who: Asker,
    now: float,
    failed: Callable[[int], bool],
    suspected: Callable[[int], bool] = never,
) -> tuple[int, ...]:
    """The targets to which somebody was sent in vain, if he is believed."""
    found = suspicions.asked_again(who, now, failed, suspected)
    return found.targets if found.is_believed else ()


@pytest.fixture
def suspicions() -> Suspicions:
    """Nobody was sent anywhere yet."""
    return Suspicions(MemoryTable(), WINDOW)


def test_who_comes_back_did_not_get_it(suspicions: Suspicions) -> None:
    """The same question from the same client says where it was sent in vain."""
    assert again(suspicions, asker(), 0.0, well) == ()
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), 3.0, well) == (ONE,)


def test_all_targets_of_an_answer_are_suspected(suspicions: Suspicions) -> None:
    """A bundle at one and the rest at another: nobody knows which it was."""
    suspicions.sent(asker(), ["one", "two"], 1.0)
    assert again(suspicions, asker(), 2.0, well) == (ONE, TWO)


@pytest.mark.parametrize(
    "other",
    [
        asker("192.0.2.8"),
        asker("192.0.2.7", "fetch"),
        asker("192.0.2.7", "clone", "git/2.39.5"),
        asker("192.0.2.7", "clone", "", "git/2.39.5"),
    ],
)
def test_somebody_else_is_somebody_else(suspicions: Suspicions, other: Asker) -> None:
    """Another address, question or program is no repetition."""
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, other, 2.0, well) == ()


@pytest.mark.parametrize("now", [31.1, 1e9, 0.9, -1e9])
def test_too_late_or_from_another_time(suspicions: Suspicions, now: float) -> None:
    """After the window it is a new question; before it was sent, the clock is another one."""
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), now, well) == ()


def test_one_redirect_fails_once(suspicions: Suspicions) -> None:
    """Who was answered inline and asks again is sent elsewhere again."""
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), 2.0, ill)
    assert again(suspicions, asker(), 2.1, ill) == ()


def test_before_a_probe_has_told_nobody_is_sent_there_twice(suspicions: Suspicions) -> None:
    """Who was answered inline gets the next one inline too, while the target is only suspected."""
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), 2.0, well, ill) == (ONE,)
    assert again(suspicions, asker(), 2.1, well, ill) == (ONE,)
    assert again(suspicions, asker(), 2.2, well, well) == ()
    assert again(suspicions, asker(question="another"), 2.2, well, ill) == ()


def test_no_client_fails_twice_in_a_row(suspicions: Suspicions) -> None:
    """Who cannot reach a target that we can, and asks and asks, gets every second one inline."""
    inline = []
    for number in range(2 * PER_ADDRESS):
        inline.append(bool(again(suspicions, asker(), float(number), well)))
        if not inline[-1]:
            suspicions.sent(asker(), ["one"], float(number))
    assert inline == [False, True] * PER_ADDRESS


def test_a_fleet_behind_one_address_does_not_switch_redirects_off(suspicions: Suspicions) -> None:
    """Of a hundred machines that ask the same, one after another, a few in a window go inline."""
    inline = 0
    for number in range(100):
        now = number * WINDOW / 100
        if again(suspicions, asker(), now, well):
            inline += 1
        else:
            suspicions.sent(asker(), ["one"], now)
    assert inline == PER_ADDRESS


def use_up(suspicions: Suspicions, count: int, now: float) -> None:
    """So many clients of the address are answered inline."""
    for number in range(count):
        who = asker(question=f"question {number}")
        suspicions.sent(who, ["one"], now)
        assert again(suspicions, who, now, well)


def test_who_is_not_believed_is_heard(suspicions: Suspicions) -> None:
    """Where an address has had its share, a probe can still see to what it says."""
    use_up(suspicions, PER_ADDRESS, 1.0)
    suspicions.sent(asker(), ["two"], 1.0)
    assert suspicions.asked_again(asker(), 2.0, well) == Again((TWO,), is_believed=False)
    assert suspicions.asked_again(asker(), 2.1, well) == Again()


def test_that_one_was_inline_is_not_forgotten(suspicions: Suspicions) -> None:
    """Who was sent elsewhere again, and was not believed then, gets it inline when he can be."""
    use_up(suspicions, 1, 0.0)
    suspicions.sent(asker(), ["one"], 10.0)
    assert again(suspicions, asker(), 11.0, well) == (ONE,)
    use_up(suspicions, PER_ADDRESS - 2, 12.0)
    suspicions.sent(asker(), ["one"], 13.0)
    assert again(suspicions, asker(), 14.0, well) == ()
    assert again(suspicions, asker(), WINDOW + 1.0, well, ill) == (ONE,)


def test_a_suspicion_frees_nobodys_share(suspicions: Suspicions) -> None:
    """However much clients of one address make a target suspected, a few of them go inline."""
    inline, target = 0, set[int]()
    for number in range(100):
        who = asker(question=f"question {number % 7}")
        found = again(suspicions, who, 1.0 + number / 10, well, target.__contains__)
        target.update(found)
        inline += bool(found)
        if not found:
            suspicions.sent(who, ["one"], 1.0 + number / 10)
        if number % 5 == 0:
            target.clear()  # a probe came back
    assert inline == PER_ADDRESS


def test_the_table_tells_no_address() -> None:
    """Nobody finds a client in it by trying all addresses, unless he has the secret."""
    table = MemoryTable()
    suspicions = Suspicions(table, WINDOW)
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), 2.0, well)
    content = table.read(0, TABLE_SIZE)
    assert asker().address in content
    plain = hashlib.blake2b(b"192.0.2.7", digest_size=16).digest()
    other = Asker.of("192.0.2.7", (), "clone", secret=b"t" * 32)
    for name in (plain, other.address, other.key):
        assert name not in content


def test_a_fleet_with_many_questions_has_its_share(suspicions: Suspicions) -> None:
    """Of one address a few go inline in a window, whatever they ask; of others likewise."""
    for address in ("192.0.2.7", "192.0.2.8"):
        inline = 0
        for number in range(100):
            who = asker(address, f"question {number}")
            suspicions.sent(who, ["one"], 1.0)
            inline += bool(again(suspicions, who, 2.0, well))
        assert inline == PER_ADDRESS
    who = asker("192.0.2.7", "later")
    suspicions.sent(who, ["one"], 2.0 + WINDOW + 1)
    assert again(suspicions, who, 2.0 + WINDOW + 2, well) == (ONE,)


def test_where_a_probe_has_failed_everybody_is_believed(suspicions: Suspicions) -> None:
    """A whole fleet whose downloads failed succeeds on its next try."""
    for number in range(100):
        who = asker(question=f"question {number}")
        suspicions.sent(who, ["two", "one"], 1.0)
        assert again(suspicions, who, 2.0, ill) == (TWO, ONE)


def test_window_of_nothing() -> None:
    """It is switched off."""
    suspicions = Suspicions(MemoryTable(), 0.0)
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), 1.0, ill) == ()


def test_nothing_to_remember(suspicions: Suspicions) -> None:
    """An answer without a target that could be suspected leaves no trace."""
    suspicions.sent(asker(), [], 1.0)
    assert again(suspicions, asker(), 1.0, ill) == ()


class Bounded(MemoryTable):
    """A table that sees that nobody leaves it."""

    def write(self, offset: int, data: bytes) -> None:
        """See that it lies within."""
        assert 0 <= offset <= offset + len(data) <= TABLE_SIZE
        super().write(offset, data)


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=50))
def test_the_table_is_bounded(asked: list[tuple[str, str]]) -> None:
    """Whoever asks whatever, no byte is written beyond its size."""
    suspicions = Suspicions(Bounded(), WINDOW)
    for now, (address, question) in enumerate(asked):
        who = asker(address, question)
        suspicions.sent(who, ["one"], float(now))
        again(suspicions, who, now + 0.5, well)


@given(st.binary(min_size=1, max_size=64).map(lambda part: part * (TABLE_SIZE // len(part))))
def test_whatever_is_in_the_table(content: bytes) -> None:
    """What others wrote, in halves or of another version, is a client that nobody knows."""
    table = MemoryTable()
    table.write(0, content)
    suspicions = Suspicions(table, WINDOW)
    assert again(suspicions, asker(), 1.0, well) == ()
    suspicions.sent(asker(), ["one"], 1.0)
    assert again(suspicions, asker(), 2.0, ill) == (ONE,)


def test_a_header_is_any_bytes() -> None:
    """What a client says of itself need not be text, and is told apart all the same."""
    one, other = (
        Asker.of("192.0.2.7", (name,), "clone", secret=SECRET)
        for name in ("git/\udce8", "git/\udce9")
    )
    assert one.address == other.address
    assert one.key != other.key
