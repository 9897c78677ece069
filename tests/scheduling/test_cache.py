from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from qwen_captcha.scheduling.cache import (
    AnswerCache,
    InFlight,
    digest_of_bytes,
    digest_of_pixels,
)
from tests.support.fake_clock import FakeClock


def test_a_value_is_returned_until_it_expires(clock: FakeClock) -> None:
    cache: AnswerCache[str, str] = AnswerCache(2, 10.0, clock)
    cache.put("a", "1")
    clock.advance(9.9)
    assert cache.get("a") == "1"
    clock.advance(0.1)
    assert cache.get("a") is None
    assert len(cache) == 0


def test_a_hit_does_not_extend_the_expiry_of_an_entry_but_a_new_value_does(
    clock: FakeClock,
) -> None:
    cache: AnswerCache[str, str] = AnswerCache(2, 10.0, clock)
    cache.put("a", "1")
    clock.advance(6.0)
    assert cache.get("a") == "1"
    cache.put("a", "2")
    clock.advance(6.0)
    assert cache.get("a") == "2"
    clock.advance(6.0)
    assert cache.get("a") is None


def test_the_least_recently_used_entry_is_evicted(clock: FakeClock) -> None:
    cache: AnswerCache[str, str] = AnswerCache(2, 10.0, clock)
    cache.put("a", "1")
    cache.put("b", "2")
    assert cache.get("a") == "1"
    cache.put("c", "3")
    assert [cache.get(key) for key in "abc"] == ["1", None, "3"]
    assert len(cache) == 2


def test_a_cache_of_no_entries_stores_nothing(clock: FakeClock) -> None:
    cache: AnswerCache[str, str] = AnswerCache(0, 10.0, clock)
    cache.put("a", "1")
    assert cache.get("a") is None


def test_the_bound_holds_with_threads() -> None:
    cache: AnswerCache[int, int] = AnswerCache(10, 60.0)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: cache.put(number, number), range(1000)))
    kept = [number for number in range(1000) if cache.get(number) == number]
    assert len(kept) == len(cache) == 10


class Reading:
    """Something that can be joined until it is over."""

    def __init__(self) -> None:
        self.over = False

    def join(self) -> bool:
        return not self.over


def test_a_second_request_joins_the_task_of_the_first() -> None:
    in_flight: InFlight[str, Reading] = InFlight()
    first, joined_first = in_flight.join_or_start("a", Reading.join, Reading)
    second, joined_second = in_flight.join_or_start("a", Reading.join, Reading)
    assert second is first
    assert (joined_first, joined_second) == (False, True)


def test_another_key_starts_another_task() -> None:
    in_flight: InFlight[str, Reading] = InFlight()
    first, _ = in_flight.join_or_start("a", Reading.join, Reading)
    second, joined = in_flight.join_or_start("b", Reading.join, Reading)
    assert second is not first
    assert not joined


def test_a_finished_task_is_not_joined() -> None:
    in_flight: InFlight[str, Reading] = InFlight()
    first, _ = in_flight.join_or_start("a", Reading.join, Reading)
    first.over = True
    second, joined = in_flight.join_or_start("a", Reading.join, Reading)
    assert second is not first
    assert not joined


def test_a_task_without_requests_is_dropped() -> None:
    in_flight: InFlight[str, Reading] = InFlight()
    reading, _ = in_flight.join_or_start("a", Reading.join, Reading)
    assert len(in_flight) == 1
    del reading
    gc.collect()
    assert len(in_flight) == 0


def test_a_failed_start_leaves_no_entry() -> None:
    in_flight: InFlight[str, Reading] = InFlight()

    def fail() -> Reading:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_flight.join_or_start("a", Reading.join, fail)
    assert len(in_flight) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Image.new("RGB", (2, 3), "red"), Image.new("RGB", (2, 3), "red"), True),
        (Image.new("RGB", (2, 3), "red"), Image.new("RGB", (3, 2), "red"), False),
        (Image.new("RGB", (2, 3), "red"), Image.new("RGB", (2, 3), "blue"), False),
    ],
    ids=["equal", "other size, same bytes", "other colour"],
)
def test_pixel_digests_tell_pictures_apart(
    one: Image.Image, other: Image.Image, same: bool
) -> None:
    assert (digest_of_pixels(one) == digest_of_pixels(other)) is same


def test_a_file_is_never_taken_for_pixels() -> None:
    image = Image.new("RGB", (1, 1))
    assert digest_of_bytes(b"1x1" + image.tobytes()) != digest_of_pixels(image)
    assert digest_of_bytes(b"a") != digest_of_bytes(b"b")
