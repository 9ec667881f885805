"""What a part of a benchmark found, for people and for machines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A table, and the ratios that it comes to.

    Attributes:
        title: what was measured, on how much.
        rows: of each contender, its figures by name.
        ratios: ours over the other's, by name.
        notes: what else to know.
    """

    title: str
    rows: Mapping[str, Figures]
    ratios: Figures
    notes: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """One object: the ratios, and all that they come from."""
        return {
            "ratios": dict(self.ratios),
            "title": self.title,
            "cpus": os.cpu_count(),
            "figures": {name: dict(figures) for name, figures in self.rows.items()},
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """A table."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        widths = [max(len(name), 9) + 2 for name in names]
        first = max(map(len, self.rows), default=0) + 2
        lines = [f"{self.title}; {os.cpu_count()} CPUs", ""]
        lines.append(" " * first + "".join(map(_right, names, widths)))
        for contender, row in self.rows.items():
            cells = [f"{row[name]:,.4g}" if name in row else "-" for name in names]
            cells = [_whole(row.get(name), cell) for name, cell in zip(names, cells, strict=True)]
            lines.append(contender.ljust(first) + "".join(map(_right, cells, widths)))
        lines += ["", *self.notes, *([""] if self.notes else [])]
        lines += [f"ratio {name:<12} {ratio:8.2f}" for name, ratio in self.ratios.items()]
        return "\n".join(lines)


def _right(text: str, width: int) -> str:
    return text.rjust(width)


def _whole(value: float | None, otherwise: str) -> str:
    return f"{value:,.0f}" if value is not None and abs(value) >= 1000 else otherwise
