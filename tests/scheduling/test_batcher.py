from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from qwen_captcha.errors import (
    CaptchaServiceError,
    DeadlineExceeded,
    InternalError,
    ModelFailed,
    ModelLoading,
    OutOfMemory,
    QueueFull,
    UnreadableShape,
)
from qwen_captcha.scheduling.batcher import MicroBatcher
from qwen_captcha.scheduling.pending import PendingResult
from qwen_captcha.scheduling.request_queue import (
    FAILURES_UNTIL_BROKEN,
    ModelState,
    RequestQueue,
    Reservation,
)
from tests.support.fake_backend import MAX_WAIT_S
from tests.support.fake_clock import FakeClock

Queue = RequestQueue[str, str]


class Model:
    """Reads tasks as their upper case; can be held, and raises what a task asks for."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.batches: list[list[str]] = []
        self.errors: dict[str, Exception] = {}
        self.seconds_per_batch = 0.0
        self.threads: set[threading.Thread] = set()
        self._open = threading.Event()
        self._open.set()
        self._entered = threading.Semaphore(0)

    def read(self, tasks: Sequence[str]) -> list[str]:
        self.threads.add(threading.current_thread())
        self.batches.append(list(tasks))
        self._entered.release()
        assert self._open.wait(MAX_WAIT_S)
        self.clock.advance(self.seconds_per_batch)
        for task in tasks:
            if task in self.errors:
                raise self.errors[task]
        return [task.upper() for task in tasks]

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def wait_until_reading(self) -> None:
        assert self._entered.acquire(timeout=MAX_WAIT_S)


@pytest.fixture
def model(clock: FakeClock) -> Iterator[Model]:
    model = Model(clock)
    yield model
    model.release()


def create_queue(clock: FakeClock, **limits: float) -> Queue:
    """Return a queue whose batches wait for ever while others are on their way."""
    defaults = {"max_batch_size": 4, "max_queue_delay_s": 1e6, "max_queue_size": 16}
    return RequestQueue(monotonic=clock, **{**defaults, **limits})  # type: ignore[arg-type]


def start(
    queue: Queue,
    read: Callable[[Sequence[str]], list[str]],
    clock: FakeClock,
    initialise: Callable[[], float] = lambda: 0.0,
) -> None:
    batcher = MicroBatcher(queue, read, monotonic=clock)
    batcher.start(initialise, on_failure=pytest.fail)
    assert queue.wait_until_loaded(MAX_WAIT_S)


@pytest.fixture
def queue(model: Model, clock: FakeClock) -> Iterator[Queue]:
    """Return a queue that is read by the model."""
    queue = create_queue(clock)
    start(queue, model.read, clock)
    yield queue
    queue.close()


def outcomes(
    batch: Sequence[PendingResult[str, str]], clock: FakeClock
) -> list[str | type[CaptchaServiceError]]:
    """Return the results, and the classes of the errors, of a batch."""
    found: list[str | type[CaptchaServiceError]] = []
    for pending in batch:
        try:
            found.append(pending.result(clock.now_s + MAX_WAIT_S))
        except CaptchaServiceError as error:
            found.append(type(error))
    return found


def read_all(
    queue: Queue, clock: FakeClock, tasks: Sequence[str], timeout_s: float = 100
) -> list[str | type[CaptchaServiceError]]:
    """Read tasks of one request."""
    with queue.reserve(len(tasks), clock.now_s + timeout_s) as reservation:
        return outcomes([reservation.submit(task) for task in tasks], clock)


def hold_with(queue: Queue, model: Model, clock: FakeClock) -> Reservation[str, str]:
    """Make the model busy with a task of its own, so that what follows is queued."""
    model.hold()
    busy = queue.reserve(1, clock.now_s + 100)
    busy.submit("busy")
    model.wait_until_reading()
    return busy


def test_a_single_task_is_read_at_once(queue: Queue, model: Model, clock: FakeClock) -> None:
    assert read_all(queue, clock, ["a"]) == ["A"]
    assert model.batches == [["a"]]


def test_results_are_in_the_order_of_the_tasks(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    tasks = [f"task {number}" for number in range(10)]
    assert read_all(queue, clock, tasks) == [task.upper() for task in tasks]
    assert [len(batch) for batch in model.batches] == [4, 4, 2]


def test_images_that_arrive_during_inference_share_the_next_batch(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    deadline = clock.now_s + 100
    with (
        hold_with(queue, model, clock),
        queue.reserve(1, deadline) as one,
        queue.reserve(2, deadline) as other,
    ):
        batch = [one.submit("a"), other.submit("b"), other.submit("c")]
        model.release()
        assert outcomes(batch, clock) == ["A", "B", "C"]
    assert model.batches == [["busy"], ["a", "b", "c"]]


def test_a_batch_waits_for_images_that_are_being_decoded(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    with queue.reserve(3, clock.now_s + 100) as reservation:
        batch = [reservation.submit("a"), reservation.submit("b")]
        assert model.batches == []
        reservation.release_slot()
        assert outcomes(batch, clock) == ["A", "B"]
    assert model.batches == [["a", "b"]]


def test_a_batch_does_not_wait_for_a_cancelled_request(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    with queue.reserve(1, clock.now_s + 100) as reservation:
        with queue.reserve(5, clock.now_s + 100):
            pending = reservation.submit("a")
        assert outcomes([pending], clock) == ["A"]


def test_a_batch_waits_at_most_the_maximum_delay(model: Model, clock: FakeClock) -> None:
    queue = create_queue(clock, max_queue_delay_s=0.0)
    start(queue, model.read, clock)
    with queue.reserve(2, clock.now_s + 100) as reservation:
        assert outcomes([reservation.submit("a")], clock) == ["A"]
        assert outcomes([reservation.submit("b")], clock) == ["B"]
    assert model.batches == [["a"], ["b"]]
    queue.close()


def test_a_late_task_never_reaches_the_model(queue: Queue, model: Model, clock: FakeClock) -> None:
    with (
        hold_with(queue, model, clock),
        queue.reserve(1, clock.now_s + 5) as late,
        queue.reserve(1, clock.now_s + 50) as timely,
    ):
        batch = [late.submit("late"), timely.submit("timely")]
        clock.advance(5)
        model.release()
        assert outcomes(batch, clock) == [DeadlineExceeded, "TIMELY"]
    assert model.batches == [["busy"], ["timely"]]


def test_a_task_of_a_cancelled_request_never_reaches_the_model(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    with hold_with(queue, model, clock), queue.reserve(1, clock.now_s + 50) as waiting:
        with queue.reserve(1, clock.now_s + 50) as leaving:
            leaving.submit("abandoned")
        pending = waiting.submit("wanted")
        model.release()
        assert outcomes([pending], clock) == ["WANTED"]
    assert model.batches == [["busy"], ["wanted"]]


def test_a_cancelled_batch_is_not_read(queue: Queue, model: Model, clock: FakeClock) -> None:
    with hold_with(queue, model, clock), queue.reserve(2, clock.now_s + 50) as leaving:
        leaving.submit("a")
        leaving.submit("b")
    model.release()
    assert queue.wait_until_empty(MAX_WAIT_S)
    assert model.batches == [["busy"]]


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (ValueError("bad tensor"), InternalError),
        (MemoryError(), OutOfMemory),
        (UnreadableShape("too long"), UnreadableShape),
    ],
    ids=["bug", "memory", "the image's own fault"],
)
@pytest.mark.parametrize("bad", [0, 1, 3], ids=["first", "second", "last"])
def test_one_bad_task_fails_alone(
    queue: Queue,
    model: Model,
    clock: FakeClock,
    error: Exception,
    seen: type[CaptchaServiceError],
    bad: int,
) -> None:
    tasks = ["a", "b", "c", "d"]
    model.errors[tasks[bad]] = error
    expected = [seen if index == bad else task.upper() for index, task in enumerate(tasks)]
    assert read_all(queue, clock, tasks) == expected
    assert max(model.batches, key=len) == tasks
    assert queue.state is ModelState.READY


def test_a_batch_that_is_too_large_is_read_in_halves(model: Model, clock: FakeClock) -> None:
    def read(tasks: Sequence[str]) -> list[str]:
        results = model.read(tasks)
        if len(tasks) > 1:
            raise MemoryError
        return results

    queue = create_queue(clock)
    start(queue, read, clock)
    assert read_all(queue, clock, ["a", "b", "c"]) == ["A", "B", "C"]
    assert [len(batch) for batch in model.batches] == [3, 1, 2, 1, 1]
    queue.close()


def test_out_of_memory_has_a_retry_after(queue: Queue, model: Model, clock: FakeClock) -> None:
    model.errors["a"] = MemoryError()
    with queue.reserve(1, clock.now_s + 100) as reservation:
        pending = reservation.submit("a")
        with pytest.raises(OutOfMemory) as error:
            pending.result(clock.now_s + MAX_WAIT_S)
    assert error.value.retry_after_s == 5
    assert "CUDA" not in error.value.message


def test_a_wrong_number_of_results_is_a_failure_and_not_a_mix_up(clock: FakeClock) -> None:
    queue = create_queue(clock)
    start(queue, lambda tasks: ["only one"], clock)
    assert read_all(queue, clock, ["a", "b"]) == ["only one", "only one"]
    queue.close()


def test_one_thread_alone_calls_the_model(queue: Queue, model: Model, clock: FakeClock) -> None:
    requests = [
        threading.Thread(target=read_all, args=(queue, clock, [f"task {number}"]))
        for number in range(12)
    ]
    for request in requests:
        request.start()
    for request in requests:
        request.join(MAX_WAIT_S)
    assert sum(len(batch) for batch in model.batches) == 12
    assert len(model.threads) == 1


def test_nothing_is_taken_before_the_model_is_loaded(model: Model, clock: FakeClock) -> None:
    queue = create_queue(clock)
    with pytest.raises(ModelLoading):
        queue.reserve(1, clock.now_s + 8)
    start(queue, model.read, clock)
    assert read_all(queue, clock, ["a"]) == ["A"]
    queue.close()


def test_the_speed_of_the_first_reading_counts_from_the_start(
    model: Model, clock: FakeClock
) -> None:
    queue = create_queue(clock)
    start(queue, model.read, clock, initialise=lambda: 5.0)
    with hold_with(queue, model, clock):
        with pytest.raises(QueueFull, match="would take about 10 s"):
            queue.reserve(1, clock.now_s + 8)
        queue.reserve(1, clock.now_s + 10).release_slot()
        model.release()
    queue.close()


def test_the_estimate_learns_from_batches(queue: Queue, model: Model, clock: FakeClock) -> None:
    model.seconds_per_batch = 8.0
    read_all(queue, clock, ["a", "b", "c", "d"])
    with hold_with(queue, model, clock):
        with pytest.raises(QueueFull, match="would take about 4 s"):
            queue.reserve(1, clock.now_s + 3.9)
        model.release()


def test_a_failed_load_is_reported_and_the_state_is_failed(model: Model, clock: FakeClock) -> None:
    reported: list[Exception] = []
    error = ValueError("torn weights")

    def initialise() -> float:
        raise error

    queue = create_queue(clock)
    batcher = MicroBatcher(queue, model.read, monotonic=clock)
    done = threading.Event()
    batcher.start(initialise, lambda failure: (reported.append(failure), done.set()))
    assert done.wait(MAX_WAIT_S)
    assert reported == [error]
    assert queue.state is ModelState.FAILED
    assert queue.error == "The model could not be loaded."


def break_model(queue: Queue, model: Model, clock: FakeClock) -> None:
    model.errors["bad"] = ValueError("non-finite logits")
    for _ in range(FAILURES_UNTIL_BROKEN):
        assert read_all(queue, clock, ["bad"]) == [InternalError]


def test_a_model_that_fails_again_and_again_is_broken(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    break_model(queue, model, clock)
    assert queue.state is ModelState.FAILED
    assert queue.error == "The last 5 images failed inside the model."


def test_a_broken_model_recovers_with_the_first_success(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    break_model(queue, model, clock)
    with hold_with(queue, model, clock):
        with pytest.raises(ModelFailed):
            queue.reserve(1, clock.now_s + 8)
        model.release()
        assert queue.wait_until_empty(MAX_WAIT_S)
    assert queue.state is ModelState.READY
    assert queue.error is None


def test_failures_between_successes_do_not_add_up(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    model.errors["bad"] = ValueError("non-finite logits")
    for _ in range(FAILURES_UNTIL_BROKEN):
        assert read_all(queue, clock, ["bad", "good"]) == [InternalError, "GOOD"]
    assert queue.state is ModelState.READY


def test_images_that_are_at_fault_themselves_do_not_break_the_model(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    model.errors["bad"] = UnreadableShape("too long")
    for _ in range(FAILURES_UNTIL_BROKEN + 1):
        assert read_all(queue, clock, ["bad"]) == [UnreadableShape]
    assert queue.state is ModelState.READY


def test_draining_answers_what_is_accepted_and_ends_the_thread(
    queue: Queue, model: Model, clock: FakeClock
) -> None:
    with hold_with(queue, model, clock), queue.reserve(1, clock.now_s + 50) as accepted:
        queue.close()
        pending = accepted.submit("accepted")
        model.release()
        assert outcomes([pending], clock) == ["ACCEPTED"]
    assert queue.wait_until_empty(MAX_WAIT_S)
    [thread] = model.threads
    thread.join(MAX_WAIT_S)
    assert not thread.is_alive()
