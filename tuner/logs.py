"""The form of a process's log: lines for people, or of JSON for programs that gather them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from tuner.config import Settings

#: What is known of what the thread is doing, to be shown with what it logs.
Context = Callable[[], Mapping[str, str]]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(settings: Settings, context: Context = dict) -> None:
    """Sends this process's log to standard error in the form that the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(context) if settings.log_format == "json" else TextFormatter(context)
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


class TextFormatter(logging.Formatter):
    """One line for people, at its end the call that it belongs to."""

    def __init__(self, context: Context = dict) -> None:
        super().__init__(_TEXT)
        self._context = context

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without the stack of an exception."""
        line = super().formatMessage(record)
        request = self._context().get("request")
        return f"{line} [request {request}]" if request else line


class JsonFormatter(logging.Formatter):
    """One JSON object in one line.

    `time` (UTC), `level`, `logger` and `message`; what the context knows; what was logged with
    `extra={"fields": ...}`; `stack` if there was an exception.
    """

    def __init__(self, context: Context = dict) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; what JSON does not know is shown as text."""
        time = datetime.fromtimestamp(record.created, UTC)
        document: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in self._context().items() if value},
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["stack"] = self.formatException(record.exc_info)
        elif record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        return json.dumps(document, ensure_ascii=False, default=str)
