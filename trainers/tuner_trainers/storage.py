"""What a process may take of its machine to keep rows: memory, and disk for the cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
#: The part of the machine's memory that encoded rows may take, of all its workers together.
MEMORY_PART = 0.5
#: The part of the free disk that the cache may take.
DISK_PART = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where rows are kept, and in how much space.

    Attributes:
        cache_dir: the folder of the cache; None for one below TMPDIR.
        cache_bytes: what all of the cache may take; 0 for a part of what the disk has free.
        memory_bytes: what the encoded rows of one worker may take; 0 for its share of a part of
            the machine's memory.
        workers: how many workers share the machine's memory.
    """

    cache_dir: Path | None = None
    cache_bytes: int = 0
    memory_bytes: int = 0
    workers: int = 1

    @property
    def folder(self) -> Path:
        """The folder of the cache."""
        return self.cache_dir or Path(tempfile.gettempdir()) / f"tuner-cache-{os.getuid()}"

    def most_cache_bytes(self, used_bytes: int) -> int:
        """What the cache may take when it takes `used_bytes`."""
        if self.cache_bytes:
            return self.cache_bytes
        return int((shutil.disk_usage(self.folder).free + used_bytes) * DISK_PART)

    @property
    def most_memory_bytes(self) -> int:
        """What the encoded rows of this worker may take."""
        return self.memory_bytes or int(machine_bytes() * MEMORY_PART / max(self.workers, 1))


def machine_bytes() -> int:
    """The memory of the machine, or of the container that the process runs in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    for path in limits:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue  # no such kind of container
        if text.isdigit():
            return min(whole, int(text))
    return whole
