"""The model card: what a version is, what it was trained on, how good it is, how it is called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Values of a column that are named; of the rest only their number.
_NAMED = 8


def card(metadata: Mapping[str, Any], example: Mapping[str, Any] | None) -> str:
    """A model card in Markdown.

    Args:
        metadata: what metadata.json says.
        example: the raw values of one row by input; None: none is known.
    """
    parts = [f"# {_text(metadata['model'] or metadata.get('study') or 'model')}"]
    trained = "study" in metadata
    parts += _trained(metadata) if trained else _imported(metadata)
    parts += ["## Inputs", _table(("input", "type"), _inputs(metadata["inputs"]))]
    parts += ["## Outputs", _table(("output", "type"), _outputs(metadata["outputs"]))]
    if example is not None:
        parts += _call(metadata["model"] or "MODEL", example)
    versions = metadata["versions"].get("trained") or metadata["versions"]["exported"]
    parts += ["## Made with", _table(("package", "version"), versions.items())]
    return "\n\n".join(parts) + "\n"


def _trained(metadata: Mapping[str, Any]) -> Sequence[str]:
    target, metric = metadata["target"], metadata["metric"]
    classes = target["classes"]
    what = f"Predicts {_code(target['label'])}"
    if classes:
        named = ", ".join(_code(name) for name in classes[:_NAMED])
        more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
        what += f", one of {named}{more}"
    code = f", with code {metadata['code'][:12]}" if metadata.get("code") else ""
    return [
        f"{what}. Trial {metadata['trial']} of the study `{metadata['study']}`, trained by "
        f"`{metadata['trainer']}`{code}; exported {metadata['create_time']}.",
        "Takes raw rows: its preprocessing is part of it. A missing number is NaN, a missing text "
        "empty; values that training did not see are predicted, too.",
        "## Data",
        f"{metadata['rows']:,} rows, fingerprint `{metadata['data_fingerprint'][:16]}`, from "
        f"{_code(metadata['data'])}.",
        "## Metrics",
        f"At epoch {metadata['epoch']}, chosen to {metric['goal'].lower()} `{metric['name']}`.",
        _table(("metric", "value"), ((k, f"{v:.6g}") for k, v in metadata["metrics"].items())),
        "## Parameters",
        _table(("parameter", "value"), {**metadata["settings"], **metadata["parameters"]}.items()),
    ]


def _imported(metadata: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"Imported from {_code(metadata['source'])} {metadata['create_time']}; "
        f"{metadata['golden_rows']} golden rows were recorded by running it then."
    ]


def _inputs(inputs: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    return [(i["name"], f"{i['dtype']} {_shape(i.get('shape', [None]))}") for i in inputs]


def _outputs(outputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    return [
        (name, kind if isinstance(kind, str) else f"{kind['dtype']} {_shape(kind['shape'])}")
        for name, kind in outputs.items()
    ]


def _shape(shape: Sequence[int | None]) -> str:
    return str(["batch" if size is None else size for size in shape]).replace("'", "")


def _call(model: str, example: Mapping[str, Any]) -> Sequence[str]:
    body = json.dumps({"instances": [example]}, ensure_ascii=False)
    quoted = body.replace("'", "'\\''")
    return [
        "## Calling it",
        f"```sh\ncurl http://HOST:8501/v1/models/{model}:predict -d '{quoted}'\n```",
    ]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in (head, *rows)]
    return "\n".join([lines[0], "|---|---|", *lines[1:]])


def _cell(value: object) -> str:
    return _text(value).replace("|", "\\|")


def _text(value: object) -> str:
    """On one line, and no more than text: names are the user's own."""
    return _line(value).replace("<", "&lt;")


def _code(value: object) -> str:
    """As it is, on one line: entities have no meaning there."""
    return f"`{_line(value)}`"


def _line(value: object) -> str:
    return " ".join(str(value).split()).replace("`", "'")
