"""The rules of names: words that are not used, names that would collide, files that are too long.

`python -m tests.support.naming [PATH]...` lists what breaks them, in these files and folders.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "service" / "stitchwork"
SOURCES: Final = (ROOT / "service", ROOT / "tests")
BANNED: Final = frozenset(
    "told said asked given shown kept seen found stands held way beyond".split()  # noqa: SIM905
)
BANNED_PREFIXES: Final = frozenset({"most", "least"})
MAX_LINES: Final = 350
MIRRORS: Final = ("cli", "api.routes", "api.openai", "api.kserve")
"""Packages with one file for each resource or face, which are named after it."""
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Definition(NamedTuple):
    """A name that is defined in a file."""

    name: str
    line: int


def words(name: str) -> list[str]:
    """The words of a snake_case, CamelCase or UPPER_CASE name, in lower case."""
    return [word.lower() for part in name.split("_") for word in _WORD.findall(part)]


def is_banned(name: str) -> bool:
    """Whether a name has a word that is not used here."""
    parts = words(name)
    return bool(BANNED.intersection(parts)) or bool(parts and parts[0] in BANNED_PREFIXES)


def definitions(tree: ast.AST) -> Iterator[Definition]:
    """Every name that a module defines: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield Definition(node.name, node.lineno)
            case ast.arg():
                yield Definition(node.arg, node.lineno)
            case ast.Name(ctx=ast.Store()):
                yield Definition(node.id, node.lineno)
            case ast.Attribute(ctx=ast.Store()):
                yield Definition(node.attr, node.lineno)
            case ast.alias() if node.asname:
                yield Definition(node.asname, node.lineno)
            case ast.MatchAs() | ast.MatchStar() if node.name:
                yield Definition(node.name, node.lineno)
            case ast.ExceptHandler() if node.name:
                yield Definition(node.name, node.lineno)


class TopLevelClass(NamedTuple):
    """A class that a module defines, and the plain names of its bases."""

    name: str
    bases: tuple[str, ...]
    line: int


class FileNames(NamedTuple):
    """What a file defines."""

    definitions: tuple[Definition, ...]
    classes: tuple[TopLevelClass, ...]


@cache
def names_in(path: Path) -> FileNames:
    """What a file defines; it is parsed once."""
    tree = ast.parse(path.read_text())
    classes = tuple(
        TopLevelClass(
            node.name,
            tuple(base.id for base in node.bases if isinstance(base, ast.Name)),
            node.lineno,
        )
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    )
    return FileNames(tuple(definitions(tree)), classes)


def sources(paths: Iterable[Path]) -> Iterator[Path]:
    """The Python files among and under these paths."""
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def banned(paths: Iterable[Path]) -> list[str]:
    """Definitions with a banned word, as `file:line: name`; modules included."""
    problems = []
    for path in sources(paths):
        if is_banned(path.stem):
            problems.append(f"{path}:1: {path.stem}")
        for definition in names_in(path).definitions:
            if is_banned(definition.name):
                problems.append(f"{path}:{definition.line}: {definition.name}")
    return problems


def collisions() -> list[str]:
    """Public classes and modules of the package that share a name.

    Modules of `MIRRORS` are named after what they mirror, and do not count.
    """
    modules, classes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for path in sources([PACKAGE]):
        dotted = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        is_mirror = any(dotted.startswith(f"{prefix}.") for prefix in MIRRORS)
        if not path.stem.startswith("_") and not is_mirror:
            modules[path.stem].append(dotted)
        for defined in names_in(path).classes:
            if not defined.name.startswith("_"):
                classes[defined.name].append(dotted)
    return [
        f"{name}: {', '.join(homes)}"
        for homes_of in (modules, classes)
        for name, homes in sorted(homes_of.items())
        if len(homes) > 1
    ]


def too_long() -> list[str]:
    """Files of the package with more lines than `MAX_LINES`."""
    counts = ((path, len(path.read_text().splitlines())) for path in sources([PACKAGE]))
    return [f"{path}: {lines} lines" for path, lines in counts if lines > MAX_LINES]


def nameless_errors() -> list[str]:
    """Exception classes of the package whose names do not end in Error."""
    problems = []
    for path in sources([PACKAGE]):
        for defined in names_in(path).classes:
            is_error = any(b.endswith("Error") or b == "Exception" for b in defined.bases)
            if is_error and not defined.name.endswith("Error"):
                problems.append(f"{path}:{defined.line}: {defined.name}")
    return problems


def main(arguments: list[str]) -> int:
    """List what breaks the rules; returns 1 if anything does."""
    paths = [Path(argument) for argument in arguments] or list(SOURCES)
    problems = [*banned(paths), *collisions(), *too_long(), *nameless_errors()]
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
