"""Which places of data and models, and which trainers, may be named."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from tuner.config import Settings, words
from tuner.errors import PermissionDeniedError
from tuner.study import DataSource, OwnTrainer, StudySpec
from tuner.trainer_spaces import PROGRAM, TRAINERS

#: What a list of allowed trainers says to allow modules that studies bring.
CODE = "code"

_FILE = "file://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What studies may name. None: anything.

    Trainers of the box may always be named. Others are modules that are installed where trials
    run; a study that brings code or a program runs whatever it likes, whatever it is called.
    """

    data: tuple[str, ...] | None = None
    trainers: tuple[str, ...] | None = None

    @staticmethod
    def of(settings: Settings) -> Allowed:
        """What the settings say. An empty list is no bound; with tokens it allows nothing."""
        data, trainers = words(settings.allowed_data), words(settings.allowed_trainers)
        bounded = settings.has_tokens
        return Allowed(
            data=data if data or bounded else None,
            trainers=trainers if trainers or bounded else None,
        )


def check_locations(spec: StudySpec, allowed: Allowed) -> None:
    """Raises PermissionDeniedError if a study names a place or a trainer that it may not.

    Links in a file system are not followed here: what they may lead to is up to the machine that
    reads the data.
    """
    if spec.trainer is not None and allowed.trainers is not None:
        _check_trainer(spec.trainer, spec.own, allowed.trainers)
    if spec.data is not None and allowed.data is not None:
        for name, uri in _places(spec.data):
            _check_place(name, uri, allowed.data)


def check_model_place(uri: str, root: str | None) -> None:
    """Raises PermissionDeniedError unless a version lies below where models are published.

    Whatever serves versions loads, and so runs, what lies there.

    Args:
        uri: where the version lies.
        root: a folder or a URI; None: anywhere.
    """
    if root is None:
        return
    place, entry = _normalized(uri), _normalized(root)
    if place is None or entry is None or not _is_below(place, entry):
        raise PermissionDeniedError(
            f"this study server accepts no versions at {uri!r}; publish below {root}, or ask an "
            "admin to set its TUNER_MODELS to where the publishers publish."
        )


def _places(data: DataSource) -> Iterable[tuple[str, str]]:
    yield "train_uri", data.train_uri
    if data.validation_uri:
        yield "validation_uri", data.validation_uri
    if data.test_uri:
        yield "test_uri", data.test_uri


def _check_trainer(trainer: str, own: OwnTrainer, allowed: Iterable[str]) -> None:
    if trainer in TRAINERS:
        return
    if trainer == PROGRAM:
        what, is_allowed = "programs", PROGRAM in allowed
    elif own.code:
        what, is_allowed = "code that studies bring", CODE in allowed
    else:
        what = f"the trainer {trainer!r}"
        names = [entry for entry in allowed if entry not in (PROGRAM, CODE)]
        is_allowed = any(_is_within(trainer, entry) for entry in names)
    if not is_allowed:
        entry = {"programs": PROGRAM, "code that studies bring": CODE}.get(what, "it")
        raise PermissionDeniedError(
            f"this study server does not allow {what}; use one of {', '.join(TRAINERS)}, or ask "
            f"an admin to add {entry} to TUNER_ALLOWED_TRAINERS."
        )


def _is_within(trainer: str, entry: str) -> bool:
    """Whether a trainer, package.module:Name, is the one of the entry or lies in its module."""
    return trainer == entry or trainer.startswith((f"{entry}.", f"{entry}:"))


def _check_place(name: str, uri: str, allowed: Iterable[str]) -> None:
    place = _normalized(uri)
    if place is None:
        raise PermissionDeniedError(
            f"`data.{name}` {uri!r} cannot be compared with TUNER_ALLOWED_DATA: write an absolute "
            "path or a URI, without a query or escapes."
        )
    entries = [entry for text in allowed if (entry := _normalized(text)) is not None]
    if not any(_is_below(place, entry) for entry in entries):
        raise PermissionDeniedError(
            f"this study server does not allow data at {uri!r} (`data.{name}`); ask an admin to "
            "add a folder or URI above it to TUNER_ALLOWED_DATA."
        )


def _is_below(place: tuple[str, str], entry: tuple[str, str]) -> bool:
    folder = entry[1].rstrip("/")
    return place[0] == entry[0] and (place[1] == entry[1] or place[1].startswith(folder + "/"))


def _normalized(uri: str) -> tuple[str, str] | None:
    """The scheme and the path without detours, the host as its first part; None if it has none.

    What a reader could take for something else than a place is none: a query may name another
    host, an escape may be a dot.
    """
    if uri.startswith(_FILE):
        uri = uri.removeprefix(_FILE)
    found = _SCHEME.fullmatch(uri)
    if found is None:
        return ("", _without_detours(uri)) if uri.startswith("/") and "\0" not in uri else None
    scheme, rest = found.groups()
    if "?" in rest or "#" in rest or "\\" in rest or unquote(rest) != rest:
        return None
    host, _, path = rest.partition("/")
    if not host or host in (".", ".."):
        return None
    return scheme.lower(), f"/{host}{_without_detours('/' + path)}"


def _without_detours(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))
