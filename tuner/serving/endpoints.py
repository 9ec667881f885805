"""The endpoints of a study server: which version answers, and how they change without a loss."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial

from tuner.endpoint import SLOTS, Deployment, Endpoint, Traffic, slot_of
from tuner.errors import DeadlineError, InvalidArgumentError, UnavailableError
from tuner.serving.files import Files
from tuner.serving.pool import Pool, Replicas
from tuner.serving.predictions import Call, Served, chosen, no_label, not_served
from tuner.serving.recording import Recorder
from tuner.serving.shadows import Shadows
from tuner.serving.tasks import spawn

logger = logging.getLogger(__name__)

#: How long traffic waits for a replica of the version it moves to.
_WARM_SECONDS = 60.0
#: How long traffic stays before a version that could not be loaded is tried again.
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 1.0, 30.0
#: Not the one that a user of the package may have seeded.
_random = random.Random()


class Deployed(Served):
    """A version that an endpoint serves."""

    def __init__(self, held: _Held, deployment: Deployment, pool: Pool, seconds: float) -> None:
        super().__init__(held.endpoint.model_id, deployment.version, pool, seconds)
        self.endpoint_id = held.endpoint.endpoint_id
        self.place = deployment.uri, deployment.sha256
        #: What of both was taken to be reported.
        self.taken = Traffic(), Traffic()
        self.has_ended = False
        self._held = held

    def done(self, call: Call, answer: bytes) -> None:
        """Has a good answer recorded, and compared with those of shadows."""
        held = self._held
        if held.recorded and _happens(held.recorded):
            held.recorder.add(held.endpoint.name, self, call, answer)
        for shadow, percent in held.shadows:
            if shadow is not self and _happens(percent):
                held.asked.ask(shadow, call, answer)


class _Held:
    """What is served of an endpoint."""

    def __init__(self, endpoint: Endpoint, recorder: Recorder, asked: Shadows) -> None:
        self.endpoint = endpoint
        self.recorder = recorder
        self.asked = asked
        self.versions: dict[int, Deployed] = {}
        self.labels: dict[str, int] = {}
        #: Who answers each hundredth of the keys; none without versions.
        self.slots: tuple[Deployed, ...] = ()
        self.shadows: tuple[tuple[Deployed, float], ...] = ()
        #: How many percent of the predictions are recorded.
        self.recorded = 0.0
        #: All that have replicas: also those that traffic has not left yet.
        self.alive: set[Deployed] = set()
        self.switch: asyncio.Task[None] | None = None


class Endpoints:
    """Serves endpoints as `apply` was last told. It belongs to an event loop.

    Args:
        starter: Starts replicas.
        files: Knows where versions lie.
        recorder: Is told of predictions that are recorded.
    """

    def __init__(self, starter: Replicas, files: Files, recorder: Recorder) -> None:
        self._starter = starter
        self._files = files
        self._recorder = recorder
        self._shadows = Shadows()
        self._held: dict[str, _Held] = {}
        self._leaving: set[Deployed] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_ready = False
        #: Asks the study server what there is, before its turn.
        self.ask: Callable[[], Awaitable[None]] | None = None

    async def look_again(self) -> None:
        """See `Source`."""
        if self.ask is not None:
            await self.ask()

    @property
    def dropped_shadows(self) -> int:
        """How many calls shadows were not asked, too, because they were busy."""
        return self._shadows.dropped

    def find(self, model: str, version: int | None, label: str, key: bytes) -> Served:
        """See `Source`."""
        held = self._known(model)
        if held is None:
            raise not_served(model, version)
        if label:
            version = held.labels.get(label)
            if version is None:
                raise no_label(label)
        if version is None:
            if not held.slots:
                raise not_served(model, None)
            return held.slots[slot_of(model, key) if key else int(_random.random() * SLOTS)]
        found = held.versions.get(version)
        if found is None:
            raise not_served(model, version)
        return found

    def versions(self, model: str, version: int | None) -> Mapping[int, Served]:
        """See `Source`."""
        held = self._known(model)
        return chosen(model, held.versions if held else {}, version)

    def all(self) -> Iterable[tuple[str, Deployed]]:
        """See `Source`; also those that end."""
        for name, held in self._held.items():
            yield from ((name, each) for each in held.alive)
        for each in self._leaving:
            yield each.endpoint_id, each

    def take(self) -> list[tuple[Deployed, Traffic, Traffic]]:
        """What each version did since this was last called: what it answered, and as a shadow."""
        taken = []
        for _, each in self.all():
            now = deepcopy((each.answered, each.shadowed))
            answered, shadowed = (
                now_.since(before) for now_, before in zip(now, each.taken, strict=True)
            )
            each.taken = now
            taken.append((each, answered, shadowed))
        self._leaving = {each for each in self._leaving if not each.has_ended}
        return taken

    def apply(self, endpoints: Sequence[Endpoint]) -> None:
        """Serves these endpoints and no others.

        It returns at once. Traffic that goes to another version does so when that one has a
        replica, if it is meant to have some without traffic, or the endpoint has some now. A
        version that cannot be loaded gets none. What is not served any more ends after its calls.

        Raises:
            InvalidArgumentError: the slots of an endpoint are none; nothing was changed.
        """
        for each in endpoints:
            _check(each)
        wanted = {each.endpoint_id: each for each in endpoints}
        for name in self._held.keys() - wanted.keys():
            held = self._held.pop(name)
            _stop(held)
            self._end(held.alive)
        for name, endpoint in wanted.items():
            known = self._held.get(name)
            if known is None:
                known = self._held[name] = _Held(endpoint, self._recorder, self._shadows)
            elif known.endpoint == endpoint:
                continue
            self._change(known, endpoint)
        self.is_ready = True
        if any(held.versions for held in self._held.values()):
            spawn(self._prepare(), self._tasks)

    async def close(self) -> None:
        """Ends all replicas, after their calls."""
        self._shadows.close()
        for held in self._held.values():
            _stop(held)
            self._end(held.alive)
        self._held.clear()
        while not all(each.has_ended for each in self._leaving):
            await asyncio.sleep(0.01)

    def _known(self, model: str) -> _Held | None:
        if not self.is_ready:
            raise UnavailableError(
                "this gateway does not know yet what it serves: its study server has not answered."
            )
        return self._held.get(model)

    # --- changes ---

    def _change(self, held: _Held, endpoint: Endpoint) -> None:
        held.endpoint = endpoint
        _stop(held)
        held.versions = {each.version: self._deployed(held, each) for each in endpoint.deployments}
        held.labels = {a: each.version for each in endpoint.deployments for a in each.aliases}
        held.shadows = tuple(
            (held.versions[each.version], each.shadow_percent)
            for each in endpoint.deployments
            if each.shadow_percent
        )
        held.recorded = endpoint.recording.percent
        held.alive |= set(held.versions.values())
        slots = tuple(held.versions[version] for version in endpoint.slots)
        fresh = set(slots) - set(held.slots)
        is_warm = endpoint.scaling.min_replicas > 0 or any(each.pool.size for each in held.alive)
        if held.slots and fresh and is_warm:
            held.switch = spawn(self._switch(held, slots, fresh), self._tasks)
        else:
            held.slots = slots
        self._settle(held)

    def _deployed(self, held: _Held, deployment: Deployment) -> Deployed:
        endpoint = held.endpoint
        scaling, seconds = endpoint.scaling, endpoint.timeout.total_seconds()
        if not (deployment.percent or deployment.shadow_percent):
            scaling = replace(scaling, min_replicas=0)
        known = held.versions.get(deployment.version)
        if known is not None and known.place == (deployment.uri, deployment.sha256):
            known.pool.scaling, known.seconds = scaling, seconds
            return known
        name = f"{endpoint.endpoint_id}/{deployment.version}"
        logger.info("%s is served from %s", name, deployment.uri)
        locate = partial(self._files.locate, deployment)
        return Deployed(held, deployment, Pool(name, locate, self._starter, scaling), seconds)

    async def _switch(
        self, held: _Held, slots: tuple[Deployed, ...], fresh: set[Deployed]
    ) -> None:
        """Moves the traffic once those that get their first of it have a replica."""
        name, pause = held.endpoint.endpoint_id, _FIRST_PAUSE_SECONDS
        while True:
            try:
                await asyncio.gather(*(_warm(each) for each in fresh))
                break
            except UnavailableError as error:
                logger.warning("the traffic of %s stays as it is: %s", name, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)
        held.slots = slots
        self._settle(held)
        logger.info("the traffic of %s has moved", name)

    def _settle(self, held: _Held) -> None:
        """Ends what is neither served nor gets traffic."""
        needed = set(held.versions.values()) | set(held.slots)
        self._end(held.alive - needed)
        held.alive = needed

    def _end(self, ended: set[Deployed]) -> None:
        for each in ended:
            logger.info("%s/%d ends", each.endpoint_id, each.number)
            self._leaving.add(each)
            spawn(self._leave(each), self._tasks)

    async def _leave(self, deployed: Deployed) -> None:
        await deployed.pool.close()
        deployed.has_ended = True

    async def _prepare(self) -> None:
        with suppress(UnavailableError):  # replicas say so themselves, when they are wanted
            await self._starter.prepare()


async def _warm(deployed: Deployed) -> None:
    """Raises UnavailableError if it does not start; one that is slow may become ready later."""
    try:
        await deployed.pool.warm(_WARM_SECONDS)
    except DeadlineError as error:
        if deployed.pool.failure:
            raise UnavailableError(f"{error.message} {deployed.pool.failure}") from None
        logger.warning("%s It gets its traffic all the same.", error.message)


def _check(endpoint: Endpoint) -> None:
    versions = {each.version for each in endpoint.deployments}
    if len(endpoint.slots) not in (0, SLOTS) or not versions.issuperset(endpoint.slots):
        raise InvalidArgumentError(
            f"{endpoint.name} has {len(endpoint.slots)} slots, of which some may name a version "
            "that it does not serve."
        )


def _stop(held: _Held) -> None:
    if held.switch is not None:
        held.switch.cancel()
        held.switch = None


def _happens(percent: float) -> bool:
    return _random.random() * 100 < percent
