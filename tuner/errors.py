"""The errors that users meet, each with the gRPC status it travels as.

    TunerError
    ├── InvalidArgumentError        what was sent cannot be right, whatever the state
    │   └── StudyFileError          mistakes in a study file, each with its line
    ├── NotFoundError               no such study or trial
    ├── AlreadyExistsError          the name is taken by something else
    ├── FailedPreconditionError     not in this state
    ├── LeaseLostError              the trial is somebody else's by now
    ├── UnavailableError            nobody answers; trying again may help
    ├── UnauthenticatedError        who you are is not known
    ├── PermissionDeniedError       you may not
    ├── InternalError               a mistake of the server's own
    ├── DataError                   the data cannot be used
    ├── InfeasibleError             a trial cannot be trained with its parameters
    ├── ModelRejectedError          an exported model does not predict what was recorded
    └── DataDirectoryError          the data directory cannot be used

A message says what is wrong and what to do next, in one line.
"""

from __future__ import annotations

from typing import ClassVar


class TunerError(Exception):
    """The root. Built from one message, so that it crosses pickle and gRPC unchanged."""

    #: The name of a grpc.StatusCode.
    code: ClassVar[str] = "UNKNOWN"
    #: Names the cause in google.rpc.ErrorInfo; the client rebuilds the class from it.
    reason: ClassVar[str] = "UNKNOWN"

    _by_reason: ClassVar[dict[str, type[TunerError]]] = {}

    def __init_subclass__(cls) -> None:
        # Ray makes subclasses of its own, which name no cause.
        if "reason" in cls.__dict__:
            TunerError._by_reason[cls.reason] = cls

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @staticmethod
    def of(reason: str, message: str) -> TunerError:
        """Returns the error that `reason` names, or a plain TunerError."""
        return TunerError._by_reason.get(reason, TunerError)(message)


class InvalidArgumentError(TunerError):
    """What was sent cannot be right, whatever the state."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class StudyFileError(InvalidArgumentError):
    """A study file has mistakes; the message has one line for each."""

    reason = "STUDY_FILE"


class NotFoundError(TunerError):
    """No such study or trial."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class AlreadyExistsError(TunerError):
    """The name is taken by something else."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class FailedPreconditionError(TunerError):
    """Not in this state."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class LeaseLostError(TunerError):
    """The trial is somebody else's or has ended; its old holder should drop it quietly."""

    code = "ABORTED"
    reason = "LEASE_LOST"


class UnavailableError(TunerError):
    """Nobody answers; trying again may help."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class UnauthenticatedError(TunerError):
    """Who you are is not known."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(TunerError):
    """You may not."""

    code = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class InternalError(TunerError):
    """A mistake of the server's own; its log tells more."""

    code = "INTERNAL"
    reason = "INTERNAL"


class DeadlineError(TunerError):
    """It took longer than it may; trying again may help."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE"


class ResourceExhaustedError(TunerError):
    """Too much is asked at once; trying again later helps."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class UnimplementedError(TunerError):
    """What was asked for does not exist here."""

    code = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class DataError(TunerError):
    """The data cannot be used: unreadable, empty, or without what the study needs."""

    code = "FAILED_PRECONDITION"
    reason = "DATA"


class InfeasibleError(TunerError):
    """A trial cannot be trained with its parameters; the search goes on without them."""

    code = "FAILED_PRECONDITION"
    reason = "INFEASIBLE"


class ModelRejectedError(TunerError):
    """An exported model is not published: it is damaged or predicts something else."""

    code = "FAILED_PRECONDITION"
    reason = "MODEL_REJECTED"


class DataDirectoryError(TunerError):
    """The data directory or the database cannot be used."""

    code = "FAILED_PRECONDITION"
    reason = "DATA_DIRECTORY"


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line without its full stop, to be quoted."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
