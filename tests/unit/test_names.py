"""The rules of names hold: in code, settings, metrics, error codes, log events and commands."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import click
import pytest

from stitchwork.cli.main import COMMANDS
from stitchwork.errors import ErrorCode
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics
from tests.docs.test_log_events import logged_events
from tests.support import naming

NOT_YET: Final[frozenset[str]] = frozenset()
"""Files and folders that do not follow the rules yet; the list only shrinks."""
CODE_NAME: Final = re.compile(r"^test_[fb]\d+b?_")


def is_checked(path: Path) -> bool:
    """Whether a file is in none of `NOT_YET`."""
    relative = path.relative_to(naming.ROOT)
    return not any(relative.is_relative_to(folder) for folder in NOT_YET)


def is_checked_module(dotted: str) -> bool:
    """Whether a module of the package is in none of `NOT_YET`."""
    path = naming.PACKAGE / dotted.replace(".", "/")
    return is_checked(path) and is_checked(path.with_suffix(".py"))


def checked(problems: list[str]) -> list[str]:
    """The problems, as `path:…`, of files that are checked."""
    return [problem for problem in problems if is_checked(Path(problem.partition(":")[0]))]


def checked_files() -> list[Path]:
    """All Python files of the repository that are checked."""
    return [path for path in naming.sources(naming.SOURCES) if is_checked(path)]


def test_definitions_have_no_banned_words() -> None:
    assert naming.banned(checked_files()) == []


def test_public_modules_and_classes_have_names_of_their_own() -> None:
    collisions = [
        collision
        for collision in naming.collisions()
        if all(is_checked_module(home) for home in collision.partition(": ")[2].split(", "))
    ]
    assert collisions == []


def test_exceptions_end_in_error() -> None:
    assert checked(naming.nameless_errors()) == []


def test_files_of_the_package_are_short() -> None:
    assert checked(naming.too_long()) == []


def test_tests_name_faults_in_words() -> None:
    names = [
        f"{path.relative_to(naming.ROOT)}: {name}"
        for path in checked_files()
        for name in re.findall(r"def (test_\w+)", path.read_text())
        if CODE_NAME.match(name)
    ]
    assert names == []


def test_names_in_not_yet_exist() -> None:
    assert [name for name in NOT_YET if not (naming.ROOT / name).exists()] == []


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, those of groups included."""
    pending = []
    for name, lazy in COMMANDS.items():
        module, _, attribute = lazy.location.partition(":")
        pending.append((name, getattr(import_module(f"stitchwork.cli.{module}"), attribute)))
    while pending:
        words, command = pending.pop()
        yield words, command
        if isinstance(command, click.Group):
            pending += [(f"{words} {name}", sub) for name, sub in command.commands.items()]


def words_of_commands() -> list[str]:
    """The words of all commands and options."""
    names = []
    for words, command in commands():
        names.append(words)
        for parameter in command.params:
            names += [name or "" for name in (parameter.name, *parameter.opts)]
            names += parameter.secondary_opts
    return names


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("settings", list(Settings.model_fields)),
        ("metrics", [family.name for family in Metrics().registry.collect()]),
        ("error codes", [code.value for code in ErrorCode]),
        ("log events", list(logged_events())),
        ("commands and options", words_of_commands()),
    ],
)
def test_names_that_users_meet_have_no_banned_words(kind: str, names: list[str]) -> None:
    assert len(names) > 5
    banned = [
        name
        for name in names
        if any(naming.is_banned(word) for word in re.findall(r"[A-Za-z_]+", name))
    ]
    assert banned == [], kind
