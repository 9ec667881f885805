"""The access log: one line for each call that has ended, and what every line says of its call."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tuner.service import call as calls
from tuner.service.call import Call

logger = logging.getLogger(__name__)

#: What people change; what workers do while they train is too much to be read.
_CHANGES = frozenset({
    "CreateStudy", "UpdateStudy", "DeleteStudy", "PrepareStudy", "StopStudy", "PauseStudy",
    "ResumeStudy", "StopTrial", "RetryTrials", "AddTrials", "UpdateTrial", "CreateToken",
    "RevokeToken", "CreateModel", "UpdateModel", "DeleteModel", "BeginModelVersion",
    "FinishModelVersion", "DeleteModelVersion", "SetModelAlias", "DeleteModelAlias",
})  # fmt: skip
#: The server's own failures, and callers who may not.
_TROUBLE = frozenset({
    "UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "DATA_LOSS",
    "UNAUTHENTICATED", "PERMISSION_DENIED",
})  # fmt: skip


class AccessLog:
    """Observes calls. What workers and readers do is logged at debug, the rest by its outcome."""

    def observe(self, call: Call) -> None:
        """Logs a call that has ended."""
        level = level_of(call)
        if not logger.isEnabledFor(level):
            return
        milliseconds = 1000 * call.seconds
        fields = {"code": call.code, "seconds": round(call.seconds, 6), "peer": call.peer}
        logger.log(
            level,
            "%s %s in %.1f ms, from %s",
            call.method,
            call.code,
            milliseconds,
            call.caller or call.peer,
            extra={"fields": fields},
        )


def level_of(call: Call) -> int:
    """How much a call that has ended matters to who reads the log."""
    if call.code in _TROUBLE:
        return logging.WARNING
    if call.code == "CANCELLED":
        # How every watcher leaves.
        return logging.DEBUG
    if call.code != "OK" or call.method in _CHANGES:
        return logging.INFO
    return logging.DEBUG


def context() -> Mapping[str, str]:
    """What is known of the call that this thread answers, for `tuner.logs`."""
    call = calls.current()
    return {"request": call.request, "method": call.method, "caller": call.caller}
