"""Who may do what: the role that each method needs, and whose things one may delete."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.admin import Role
from tuner.errors import PermissionDeniedError
from tuner.service.call import Call

#: The role that each method of tuner's services needs. What is not listed nobody may call.
METHODS: Mapping[str, Role] = {
    # StudyService: reading
    "GetStudy": Role.READER,
    "ListStudies": Role.READER,
    "GetImportance": Role.READER,
    "GetTrial": Role.READER,
    "ListTrials": Role.READER,
    "StreamTrials": Role.READER,
    "WatchStudy": Role.READER,
    "ReadTrialLog": Role.READER,
    # StudyService: changing
    "CreateStudy": Role.WRITER,
    "UpdateStudy": Role.WRITER,
    "DeleteStudy": Role.WRITER,
    "PrepareStudy": Role.WRITER,
    "StopStudy": Role.WRITER,
    "PauseStudy": Role.WRITER,
    "ResumeStudy": Role.WRITER,
    "SuggestTrials": Role.WRITER,
    "ReportTrial": Role.WRITER,
    "CompleteTrial": Role.WRITER,
    "ExchangeTrial": Role.WRITER,
    "ReleaseTrial": Role.WRITER,
    "StopTrial": Role.WRITER,
    "RetryTrials": Role.WRITER,
    "AddTrials": Role.WRITER,
    "UpdateTrial": Role.WRITER,
    "WriteTrialLog": Role.WRITER,
    # ModelService
    "GetModel": Role.READER,
    "ListModels": Role.READER,
    "GetModelVersion": Role.READER,
    "ListModelVersions": Role.READER,
    "CreateModel": Role.WRITER,
    "UpdateModel": Role.WRITER,
    "DeleteModel": Role.WRITER,
    "BeginModelVersion": Role.WRITER,
    "FinishModelVersion": Role.WRITER,
    "DeleteModelVersion": Role.WRITER,
    "SetModelAlias": Role.WRITER,
    "DeleteModelAlias": Role.WRITER,
    # EndpointService
    "GetEndpoint": Role.READER,
    "ListEndpoints": Role.READER,
    "GetEndpointReport": Role.READER,
    "ListGateways": Role.READER,
    "CreateEndpoint": Role.WRITER,
    "UpdateEndpoint": Role.WRITER,
    "DeleteEndpoint": Role.WRITER,
    "DeployVersion": Role.WRITER,
    "UndeployVersion": Role.WRITER,
    "RollBackEndpoint": Role.WRITER,
    "ReportGateway": Role.WRITER,
    "RecordPredictions": Role.WRITER,
    "RecordResults": Role.WRITER,
    # StatisticsService
    "GetStatistics": Role.READER,
    "UpdateStatistics": Role.WRITER,
    # AdminService
    "CreateToken": Role.ADMIN,
    "ListTokens": Role.ADMIN,
    "RevokeToken": Role.ADMIN,
    "ListAuditEntries": Role.ADMIN,
    "ListServers": Role.ADMIN,
}


def check_role(method: str, caller: str, role: Role) -> None:
    """Raises PermissionDeniedError unless a caller of this role may call the method."""
    needed = METHODS.get(method)
    if needed is None:
        raise PermissionDeniedError(f"{method} may be called by nobody: no role is set for it.")
    if not role.includes(needed):
        raise PermissionDeniedError(
            f"{caller!r} has the role {role.lower()}, and {method} needs {needed.lower()}; ask an "
            f"admin for another token: tuner token create NAME --role {needed.lower()}."
        )


def may_delete(call: Call, creator: str) -> bool:
    """Whether a writer may delete something: their own, nobody's, and as an admin any."""
    return call.is_admin or creator in ("", call.caller)


def check_delete(call: Call, name: str, creator: str, *, kind: str = "study") -> None:
    """Raises PermissionDeniedError unless the caller may delete the study, or another kind."""
    if not may_delete(call, creator):
        raise PermissionDeniedError(
            f"{kind} {name!r} was created by {creator!r}; only they and admins may delete it."
        )
