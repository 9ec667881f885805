"""The part of a study file that says what trains a trial."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import yaml

from tuner import trainer_spaces
from tuner.study import OwnTrainer
from tuner.study_file.nodes import Section, hint
from tuner.trainer_spaces import PROGRAM

_REFERENCE = re.compile(r"([^\W\d]\w*)(\.[^\W\d]\w*)*:[^\W\d]\w*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Variables that are set for each trial.
_TAKEN = re.compile(r"TF_CONFIG|CLOUD_ML_.*|TUNER_.*|RAY_.*")
_KINDS = ("program", "command", "module")
_EXAMPLE = '{program: "python -m trainer.task", code: .}'
#: The longest argument, and the most of them, that the study server takes.
_ARGUMENTS, _ARGUMENT = 1000, 4096


def trainer(top: Section, managed: bool, folder: Path) -> tuple[str | None, OwnTrainer]:
    """What trains a trial; None for the user's own script. Relative paths start at `folder`."""
    names = tuple(trainer_spaces.TRAINERS)
    if managed:
        top.require("trainer", f"`trainer: {names[0]}`")
    if top.has("trainer") and isinstance(top.entries["trainer"][1], yaml.MappingNode):
        return _own(top, folder)
    kind = top.text("trainer", f"{', '.join(names)}, package.module:Name or {_EXAMPLE}")
    if kind is None or kind in names:
        return kind, OwnTrainer()
    if ":" in kind:
        return _module(top, "trainer", kind, None, folder)
    others = f", package.module:Name, {_EXAMPLE}"
    top.reject("trainer", f"unknown trainer {kind!r}{hint(kind, names)}{others}")
    return None, OwnTrainer()


def _own(top: Section, folder: Path) -> tuple[str | None, OwnTrainer]:
    section = top.section("trainer", (*_KINDS, "code", "env"), _EXAMPLE)
    if section is None:
        return None, OwnTrainer()
    kinds = [kind for kind in _KINDS if section.has(kind)]
    if len(kinds) != 1:
        what = f"has both {' and '.join(kinds)}; keep one" if kinds else f"needs {_EXAMPLE}"
        if kinds or not section.has_unknown:
            section.problems.add(section.where, f"trainer {what}")
        return None, OwnTrainer()
    code = section.text("code", "a folder, a package or a module")
    written = None if code is None else _resolved(code, folder)
    if kinds[0] == "module":
        if section.has("env"):
            message = "trainer.env goes with a program; a module runs in a process of the runner's"
            section.reject("env", message)
        reference = section.text("module", "package.module:Name")
        if reference is None:
            return None, OwnTrainer()
        return _module(section, "module", reference, written, folder)
    command = _command(section, kinds[0])
    environment = _environment(section)
    if written is None:
        _expect_code(section, kinds[0], command, folder)
    return PROGRAM, OwnTrainer(command=command, environment=environment, code=written or "")


def _command(section: Section, key: str) -> tuple[str, ...]:
    if key == "command":
        words = section.texts(key, "[python, -m, trainer.task]")
    else:
        text = section.text(key, 'a program and its arguments, such as "python -m trainer.task"')
        try:
            words = tuple(shlex.split(text or ""))
        except ValueError as error:
            section.reject(key, f"{section.name(key)} cannot be split into words: {error}")
            return ()
    if not words and not len(section.problems):
        section.expect(key, "a program and its arguments")
    if len(words) > _ARGUMENTS or any(len(word) > _ARGUMENT for word in words):
        section.reject(key, f"{section.name(key)} takes {_ARGUMENTS} words of {_ARGUMENT} letters")
    return words


def _environment(section: Section) -> Mapping[str, str]:
    inner = section.section("env", None, "{OMP_NUM_THREADS: 2}")
    if inner is None:
        return {}
    found: dict[str, str] = {}
    for name, (_, node) in inner.entries.items():
        if _TAKEN.fullmatch(name):
            inner.reject(name, f"{inner.name(name)} is set for each trial; remove it")
        elif not _VARIABLE.fullmatch(name):
            inner.reject(name, f"a variable is named by letters, digits and _, but got {name!r}")
        elif isinstance(node, yaml.ScalarNode):
            found[name] = str(node.value)
        else:
            inner.expect(name, "text")
    return found


def _expect_code(section: Section, key: str, command: tuple[str, ...], folder: Path) -> None:
    """Notes that the program seems to lie beside the study file, and would not be shipped."""
    for index, word in enumerate(command):
        is_module = index > 0 and command[index - 1] == "-m"
        first = word.partition(".")[0] if is_module else word
        beside = [folder / first, folder / f"{first}.py"] if is_module else [folder / word]
        relative = not Path(word).is_absolute() and (is_module or word.endswith((".py", ".sh")))
        if relative and any(path.exists() for path in beside):
            section.reject(
                key,
                f"{section.name(key)}: {word} lies beside this file, and trials run elsewhere; "
                "add `code: .`, or another folder with it",
            )
            return


def _module(
    section: Section, key: str, reference: str, code: str | None, folder: Path
) -> tuple[str | None, OwnTrainer]:
    matched = _REFERENCE.fullmatch(reference)
    if matched is None:
        section.expect(key, "package.module:Name, with a single colon")
        return None, OwnTrainer()
    if code is None:
        code = _beside(section, key, matched[1], folder)
    return reference, OwnTrainer(code=code)


def _beside(section: Section, key: str, name: str, folder: Path) -> str:
    """The package or the module of that name next to the study file; empty if there is none."""
    package, module = folder / name, folder / f"{name}.py"
    if (package / "__init__.py").is_file():
        return str(package)
    if module.is_file():
        return str(module)
    if package.is_dir():
        section.reject(
            key,
            f"{name}/ lies beside this file but has no __init__.py; add one, or write "
            f"{{module: ..., code: .}}",
        )
    return ""


def _resolved(path: str, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).resolve())
