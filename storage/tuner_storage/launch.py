"""Becomes another program that ends with its parent: `launch.py PARENT UID GID PROGRAM ARGS...`.

It uses the standard library alone, and is run by its path.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Changes the user, asks the kernel for SIGINT at the parent's end, and becomes the program.

    SIGINT is PostgreSQL's fast shutdown. It has to be asked for after the change of user, which
    forgets it.
    """
    parent, uid, gid, program, *args = sys.argv[1:]
    if uid:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)
    os.execv(program, [program, *args])


if __name__ == "__main__":
    main()
