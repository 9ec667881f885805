"""How slots share a machine: who waits, who is given what, and when a gang ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError

import pytest

from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.runner.pool import Capacity, Node, Pool
from tuner.runner.shape import Shape
from tuner.study import Strategy

pytestmark = pytest.mark.timeout(30)

ONE = Shape(workers=1)
TWO = Shape(workers=2, strategy=Strategy.MULTI_WORKER)


class SmallGang:
    """A gang without processes."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.broken = False
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Desk:
    """A pool, and threads that ask for gangs."""

    def __init__(self, cpus: float, patience_seconds: float = 60.0) -> None:
        self.built: list[SmallGang] = []
        self.stop = threading.Event()
        self.pool: Pool[SmallGang] = Pool(
            lambda: Capacity(nodes=(Node(cpus=cpus),)),
            self._build,
            patience_seconds=patience_seconds,
        )
        self.threads = ThreadPoolExecutor(8)

    def _build(self, shape: Shape) -> SmallGang:
        self.built.append(SmallGang(shape))
        return self.built[-1]

    def ask(self, shape: Shape) -> Future[SmallGang | None]:
        waiting = len(self.pool._waiters)
        future = self.threads.submit(self.pool.acquire, shape, self.stop)
        until(lambda: future.done() or len(self.pool._waiters) > waiting)
        return future

    def now(self, shape: Shape) -> SmallGang:
        gang = self.ask(shape).result(5)
        assert gang is not None
        return gang


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("waited in vain")


def waits(future: Future[SmallGang | None]) -> bool:
    try:
        future.result(0.1)
    except TimeoutError:
        return True
    return False


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(cpus: float, **options: float) -> Desk:
        made.append(Desk(cpus, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop.set()
        each.threads.shutdown()


def test_a_released_gang_serves_the_next_slot(desk: Callable[..., Desk]) -> None:
    here = desk(2)
    first = here.now(TWO)
    here.pool.release(first)
    assert here.now(TWO) is first


def test_gangs_stay_within_the_capacity(desk: Callable[..., Desk]) -> None:
    here = desk(3)
    first = here.now(TWO)
    here.now(ONE)
    waiting = here.ask(ONE)
    assert waits(waiting)
    here.pool.release(first)
    assert waiting.result(5) is here.built[-1]
    assert first.closed, "an idle gang of another shape makes room"


def test_a_slot_keeps_its_gang_while_nobody_waits(desk: Callable[..., Desk]) -> None:
    here = desk(2)
    gang = here.now(TWO)
    assert here.pool.exchange(gang, here.stop) is gang


def test_slots_of_one_shape_take_turns(desk: Callable[..., Desk]) -> None:
    here = desk(2)
    gang = here.now(TWO)
    other = here.ask(TWO)
    back = here.threads.submit(here.pool.exchange, gang, here.stop)
    assert other.result(5) is gang
    assert waits(back)
    here.pool.release(gang)
    assert back.result(5) is gang
    assert len(here.built) == 1


def test_a_warm_gang_is_not_broken_up_at_once_for_another_shape(
    desk: Callable[..., Desk],
) -> None:
    here = desk(2)
    gang = here.now(TWO)
    other = here.ask(ONE)
    assert here.pool.exchange(gang, here.stop) is gang
    assert waits(other)


def test_a_slot_that_has_waited_long_is_served(desk: Callable[..., Desk]) -> None:
    here = desk(2, patience_seconds=0.0)
    gang = here.now(TWO)
    other = here.ask(ONE)
    back = here.threads.submit(here.pool.exchange, gang, here.stop)
    small = other.result(5)
    assert small is not None and small.shape == ONE
    assert gang.closed
    here.pool.release(small)
    again = back.result(5)
    assert again is not None and again.shape == TWO


def test_a_broken_gang_is_replaced(desk: Callable[..., Desk]) -> None:
    here = desk(2)
    gang = here.now(TWO)
    gang.broken = True
    other = here.pool.exchange(gang, here.stop)
    assert gang.closed
    assert other is not None and other is not gang and not other.broken


def test_a_gang_that_cannot_be_built_gives_its_room_back(desk: Callable[..., Desk]) -> None:
    here = desk(2)
    failures = [UnavailableError("no luck")]

    def build(shape: Shape) -> SmallGang:
        if failures:
            here.stop.set()  # so that the slot does not wait for the next try
            raise failures.pop()
        return SmallGang(shape)

    here.pool = Pool(lambda: Capacity(nodes=(Node(cpus=2),)), build)
    assert here.pool.acquire(TWO, here.stop) is None
    here.stop.clear()
    assert here.pool.acquire(TWO, here.stop) is not None


def test_stopping_wakes_those_who_wait(desk: Callable[..., Desk]) -> None:
    here = desk(2)
    here.now(TWO)
    waiting = here.ask(TWO)
    here.stop.set()
    assert waiting.result(5) is None


def test_a_closed_pool_ends_idle_gangs_now_and_others_when_released(
    desk: Callable[..., Desk],
) -> None:
    here = desk(4)
    idle, used = here.now(TWO), here.now(TWO)
    here.pool.release(idle)
    here.pool.close()
    assert idle.closed and not used.closed
    here.pool.release(used)
    assert used.closed


def test_gangs_that_nobody_uses_end(desk: Callable[..., Desk]) -> None:
    here = desk(4)
    gang = here.now(TWO)
    here.pool.release(gang)
    here.pool.tidy()
    assert not gang.closed
    here.pool._idle_seconds = -1.0
    here.pool.tidy()
    assert gang.closed


def test_a_worker_does_not_span_two_nodes() -> None:
    nodes = Node(name="a", cpus=2), Node(name="b", cpus=3, gpus=1), Node(name="c", cpus=0)

    def places(shape: Shape, placement: str) -> str:
        capacity = Capacity(nodes=nodes, where="the Ray cluster", placement=placement)
        try:
            capacity.check(shape)
        except InvalidArgumentError as error:
            return error.message
        return "fits"

    assert places(Shape(workers=2, cpus_per_worker=2), "PACK") == "fits"
    assert places(Shape(workers=8, cpus_per_worker=0.5), "SPREAD") == "fits"
    assert places(Shape(workers=3, cpus_per_worker=1), "STRICT_PACK") == "fits"
    assert places(Shape(cpus_per_worker=3, gpus_per_worker=0.5), "PACK") == "fits"
    assert places(Shape(workers=3, cpus_per_worker=2), "PACK") == (
        "each trial needs 3 workers of 2 CPUs, but the Ray cluster has room for 2: a has 2 CPUs "
        "and 0 GPUs; b has 3 CPUs and 1 GPUs; c has 0 CPUs and 0 GPUs. Lower what each worker "
        "needs, or add nodes."
    )
    served = Shape(
        workers=2, gpus_per_worker=0.5, strategy=Strategy.PARAMETER_SERVER, parameter_servers=1
    )
    assert places(served, "PACK") == places(served, "SPREAD") == "fits"
    assert "room for 2 on nodes of their own: " in places(served, "STRICT_SPREAD")
    assert "has room for 3 on one node: " in places(Shape(workers=4), "STRICT_PACK")
    assert "room for 2 on nodes of their own: " in places(Shape(workers=3), "STRICT_SPREAD")
    assert "1 CPUs and 0.6 GPUs, but the Ray cluster has room for 1: " in places(
        Shape(workers=2, gpus_per_worker=0.6), "PACK"
    )


def test_a_slot_that_waits_in_vain_says_why_once(
    desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    here = desk(1)
    waiting = here.ask(TWO)
    for _ in range(3):
        here.pool.tidy()
    (record,) = caplog.records
    assert "a trial waits for room: each trial needs 2 CPUs, but this machine offers 1" in (
        record.getMessage()
    )
    here.stop.set()
    assert waiting.result(5) is None


def test_what_never_fits_is_refused_with_what_to_change() -> None:
    with pytest.raises(
        InvalidArgumentError,
        match=r"each trial needs 8 CPUs, but this machine offers 2: lower resources\.workers or "
        r"resources\.cpus_per_worker",
    ):
        Capacity(nodes=(Node(cpus=2),)).check(Shape(workers=4, cpus_per_worker=2))
    with pytest.raises(InvalidArgumentError, match="needs 1 GPUs, but this machine offers 0"):
        Capacity(nodes=(Node(cpus=2),)).check(Shape(gpus_per_worker=1))
    served = Shape(
        workers=2, cpus_per_worker=0.5, strategy=Strategy.PARAMETER_SERVER, parameter_servers=1
    )
    Capacity(nodes=(Node(cpus=2),)).check(served)
    with pytest.raises(
        InvalidArgumentError,
        match=r"needs 2 CPUs \(2 workers of 0\.5 CPUs, 1 parameter servers and a coordinator of "
        r"0\.5 CPUs each\), but this machine offers 1: lower",
    ):
        Capacity(nodes=(Node(cpus=1),)).check(served)
    Capacity(nodes=(Node(cpus=2),)).check(TWO)
