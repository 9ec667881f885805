"""What Ray reads from the environment, set before Ray is imported: it does not look again."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping


def prepare(environment: MutableMapping[str, str], *, own_cluster: bool) -> None:
    """Sets Ray's variables for this process and those that Ray starts from it.

    Args:
        own_cluster: Whether this process starts its own Ray rather than joining one. Its Ray then
            lets nobody in but processes that inherit a token made here.
    """
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    # A thread that is late, at the runner's end, must not start a Ray of its own.
    environment["RAY_ENABLE_AUTO_CONNECT"] = "0"
    if own_cluster:
        environment["RAY_AUTH_MODE"] = "token"
        # On one machine a silent Ray is a dead one: the runner ends, and is started again.
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "15"
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
