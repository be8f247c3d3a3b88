"""The reference pages made from the code; `python -m tests.support.reference_pages` writes them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from stitchwork.cli.main import CLIENT_COMMANDS, SERVICE_COMMANDS, commands
from stitchwork.cli.settings_options import SettingOption
from tests.support.client_page import clients_page
from tests.support.openapi_document import SNAPSHOT

FOLDER: Final = Path(__file__).parents[2] / "docs" / "reference"
PROGRAM: Final = "stitchwork"
SHARED: Final = ("--url", "--key", "--timeout")
"""Options of all commands for a running service."""


def commands_page() -> str:
    """The page of the command line: every command with its own options."""
    with click.Context(commands, info_name=PROGRAM) as root:
        sections: list[str] = []
        shared: dict[str, tuple[str, str]] = {}
        for title, group in (
            ("For a running service", CLIENT_COMMANDS),
            ("To run or manage a service", SERVICE_COMMANDS),
        ):
            sections += ["", f"## {title}"]
            for name in group:
                command = _subcommand(commands, root, name)
                sections += _command(command, click.Context(command, root, info_name=name), shared)
    lines = [
        "# Commands",
        "",
        "`stitchwork COMMAND --help` prints the same, with all options, including those that "
        "several commands share.",
        "",
        "All commands for a running service have these options, which their tables leave out:",
        "",
        *_table("Option", shared.values()),
        *sections,
    ]
    return "\n".join(lines) + "\n"


def _subcommand(group: click.Group, context: click.Context, name: str) -> click.Command:
    """A command of a group, by its name."""
    command = group.get_command(context, name)
    assert command is not None
    return command


def _command(
    command: click.Command, context: click.Context, shared: dict[str, tuple[str, str]]
) -> Iterator[str]:
    """The section of a command, and those of the commands below it.

    Options that all commands for a running service have are added to `shared` instead.
    """
    yield from ("", f"### {context.command_path}", "")
    paragraphs = (command.help or "").replace("\b", "").strip().split("\n\n")
    yield "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = _subcommand(command, context, name)
            yield from _command(below, click.Context(below, context, info_name=name), shared)
        return
    usage = " ".join(piece for piece in command.collect_usage_pieces(context))
    yield from ("", f"`{context.command_path} {usage}`")
    options = [option for option in command.params if isinstance(option, click.Option)]
    own: list[tuple[str, str]] = []
    for option in options:
        record = option.get_help_record(context)
        if record is None or isinstance(option, SettingOption):
            continue
        if option.opts[0] in SHARED:
            shared.setdefault(option.opts[0], record)
        else:
            own.append(record)
    if own:
        yield from ("", *_table("Option", own))
    if any(isinstance(option, SettingOption) for option in options):
        yield from (
            "",
            "`--help` also lists an option for each [setting](settings.md) that it reads.",
        )


def _table(heading: str, records: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A table of names and their meanings."""
    yield from (f"| {heading} | Means |", "|---|---|")
    for names, text in records:
        yield f"| `{_cell(names)}` | {_cell(text)} |"


def http_api_page() -> str:
    """The page of the HTTP API: every operation, then every object in their bodies."""
    document = json.loads(SNAPSHOT.read_text())
    lines = [
        "# HTTP API",
        "",
        "A running service has this at `/docs`, where it can be tried, and as `/openapi.json`.",
        "[Error codes](errors.md) has the responses that are errors.",
    ]
    tags: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            section = tags.setdefault(operation["tags"][0], [])
            section += _operation(f"{method.upper()} {path}", operation)
    for tag, section in sorted(tags.items(), key=lambda item: item[0].lower()):
        lines += ["", f"## {tag[0].upper()}{tag[1:]}", *section]
    lines += ["", "## Objects"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _object(name, schema)
    return "\n".join(lines) + "\n"


def _operation(title: str, operation: Mapping[str, Any]) -> Iterator[str]:
    """The section of an operation."""
    yield from ("", f"### {title}", "", f"{operation['summary']}.")
    if operation.get("description"):
        yield from ("", operation["description"].strip())
    keys = [entry["key"] for entry in operation.get("security", ()) if "key" in entry]
    scopes = sorted({scope for key in keys for scope in key})
    yield from ("", f"Scope of the API key: {' or '.join(scopes) or 'no key is needed'}.")
    parameters = operation.get("parameters", ())
    if parameters:
        yield from ("", "| Parameter | In | Type | Means |", "|---|---|---|---|")
        for parameter in parameters:
            kind = _type(parameter["schema"])
            text = _cell(parameter.get("description", ""))
            yield f"| `{parameter['name']}` | {parameter['in']} | {kind} | {text} |"
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        yield from ("", f"Body: {_media(content)}.")
    yield ""
    for status, response in operation["responses"].items():
        if status.startswith(("2", "3")):
            media = _media(response.get("content", {}))
            text = _cell(response["description"]).rstrip(".")
            yield f"- {status}: {text}{f': {media}' if media else ''}."


def _media(content: Mapping[str, Any]) -> str:
    """The media types of a body, with the object that it is where it is JSON."""
    return ", ".join(
        f"`{media}`" + (f" ({_type(body['schema'])})" if "$ref" in body.get("schema", {}) else "")
        for media, body in content.items()
    )


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """The section of an object."""
    yield from ("", f"### {name}")
    if schema.get("description"):
        yield from ("", schema["description"].strip())
    fields = schema.get("properties", {})
    if not fields:
        yield from ("", f"{_type(schema)}.")
        return
    yield from ("", "| Field | Type | Means |", "|---|---|---|")
    for field, value in fields.items():
        mark = "" if field in schema.get("required", ()) else ", optional"
        yield f"| `{field}` | {_type(value)}{mark} | {_cell(value.get('description', ''))} |"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema as a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(choice) for choice in schema[key]))
    if schema.get("type") == "array":
        items = _type(schema.get("items", {}))
        return f"array of ({items})" if " or " in items else f"array of {items}"
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _cell(text: str) -> str:
    """A text in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


PAGES: Final = {
    "clients.md": clients_page,
    "commands.md": commands_page,
    "http-api.md": http_api_page,
}


def main() -> None:
    """Write the pages of this checkout."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    main()
