"""How much memory a process and its machine, or container, hold: Linux's own figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_GIB = 1024**3
#: Of a container: its limit, what it holds, and what of that can be taken from it; v2, then v1.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a process holds, and what its machine has; 0 where the system does not say."""

    process_bytes: int = 0
    #: Of the machine, or of the container if that may have less.
    total_bytes: int = 0
    free_bytes: int = 0
    #: How many processes were killed for want of memory since the machine started.
    kills: int = 0

    def __str__(self) -> str:
        machine = f"{gib(self.total_bytes)} of memory, {gib(self.free_bytes)} of it free"
        if not self.process_bytes:
            return f"the machine has {machine}"
        return f"the worker held {gib(self.process_bytes)}; its machine has {machine}"


#: Of a process that nobody could ask.
UNKNOWN = Memory()


def gib(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / _GIB:.2f} GiB"


def measure(pid: int | None = None) -> Memory:
    """The memory of a process of this machine, by default this one, and of the machine."""
    machine = _fields(Path("/proc/meminfo"))
    total, free = machine.get("MemTotal", 0) * 1024, machine.get("MemAvailable", 0) * 1024
    for limit_file, usage_file, reclaimable in _LIMITS:
        limit, usage = _number(Path(limit_file)), _number(Path(usage_file))
        if limit is not None and usage is not None and 0 < limit < total:
            cache = _fields(Path(usage_file).with_name("memory.stat")).get(reclaimable, 0)
            total, free = limit, min(free, limit - usage + cache)
    return Memory(
        process_bytes=_resident(os.getpid() if pid is None else pid),
        total_bytes=total,
        free_bytes=max(0, free),
        kills=_fields(Path("/proc/vmstat")).get("oom_kill", 0),
    )


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _fields(path: Path) -> dict[str, int]:
    """The lines `name number` or `name: number kB` of a file; none if there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.replace(":", " ").split()[:2] for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
