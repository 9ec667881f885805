"""Threads that follow a stream of the server for as long as somebody looks at it."""

from __future__ import annotations

import abc
import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

from tuner.errors import NotFoundError, TunerError
from tuner.web.source import StudySource

logger = logging.getLogger(__name__)

#: A feed that nobody asked for this long is closed.
IDLE_SECONDS = 60.0
#: At most this many feeds are open, as a server has 64 streams for everybody; the one longest
#: unused makes room.
MOST_FEEDS = 24

_RETRY_SECONDS = 1.0


class Feed(abc.ABC):
    """Follows one stream in a thread of its own until closed. Subclasses guard their state."""

    def __init__(self, source: StudySource) -> None:
        self._source = source.another()
        self._closed = threading.Event()
        self._done = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.used = time.monotonic()

    @abc.abstractmethod
    def follow(self, source: StudySource) -> bool:
        """Takes in one stream to its end; returns whether there is nothing more to come."""

    @abc.abstractmethod
    def broke(self, error: TunerError) -> None:
        """Takes notice that the stream ended with an error; it is tried again soon."""

    def start(self, *, again: bool = False) -> None:
        """Follows, if it does not already; `again`: even if there was nothing more to come."""
        self.used = time.monotonic()
        with self._starting:
            done = self._done and not again
            running = self._thread is not None and self._thread.is_alive()
            if self._closed.is_set() or done or running:
                return
            self._done = False
            self._thread = threading.Thread(target=self._run, name="tuner-feed", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the stream; the thread ends soon."""
        self._closed.set()
        self._source.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            if self._followed():
                self._done = True
                return
            self._closed.wait(_RETRY_SECONDS)
        # A call that began while the feed was closed may have opened the connection again.
        self._source.close()

    def _followed(self) -> bool:
        try:
            return self.follow(self._source)
        except NotFoundError:
            return True
        except TunerError as error:
            if not self._closed.is_set():
                logger.debug("a stream broke and starts again: %s", error)
                self.broke(error)
            return False


F = TypeVar("F", bound=Feed)


class Feeds:
    """The open feeds, by what they follow. Owns them and the thread that closes idle ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._feeds: dict[Hashable, Feed] = {}
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="tuner-feeds", daemon=True)
        self._sweeper.start()

    def get(self, key: Hashable, make: Callable[[], F]) -> F:
        """The feed under `key`, made and started if there is none; one key, one class."""
        with self._lock:
            feed = self._feeds.get(key)
            if feed is None:
                feed = self._feeds[key] = make()
            crowded = len(self._feeds) > MOST_FEEDS
        feed.start()
        if crowded:
            self.drop(self._longest_unused())
        return cast(F, feed)

    def drop(self, key: Hashable) -> None:
        """Closes the feed under `key`, if there is one."""
        with self._lock:
            feed = self._feeds.pop(key, None)
        if feed is not None:
            feed.close()

    def close(self) -> None:
        """Closes every feed."""
        self._closed.set()
        for key in list(self._feeds):
            self.drop(key)
        self._sweeper.join(timeout=5)

    def _sweep(self) -> None:
        while not self._closed.wait(IDLE_SECONDS / 4):
            idle = time.monotonic() - IDLE_SECONDS
            with self._lock:
                unused = [key for key, feed in self._feeds.items() if feed.used < idle]
            for key in unused:
                self.drop(key)

    def _longest_unused(self) -> Hashable:
        with self._lock:
            return min(self._feeds, key=lambda key: self._feeds[key].used)
