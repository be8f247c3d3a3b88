"""The page of clients of other services: the lines by which each is called, from the scripts."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CLIENTS: Final = ROOT / ".ci" / "clients"
PROTOCOL_SCRIPTS: Final = ROOT / "tests" / "integration" / "protocols" / "scripts"
NODE_CLIENT: Final = re.compile(
    r'^await client\("(?P<name>[^"]+)", async \(\) => \{\n(?P<code>.*?)^\}\)', re.M | re.S
)
CURL: Final = re.compile(r"^ *curl (?:.*\\\n)*.*\n", re.M)
INTRODUCTION: Final = """\
# Clients of other services, by example

Continuous integration runs this code by `.ci/clients/run`, with the current releases of these
clients. `url` is the address of a service with the spaces `minilm` and `other`. `expected` requests
the embeddings of the same texts from the service's own route, `unit` scales them to length one, and
`check` compares embeddings; `TEXTS`, `QUERY` and `DOCUMENTS` are texts.
[Clients of OpenAI, Cohere and Text Embeddings Inference](../guides/openai-clients.md) describes the
routes and their fields, and [KServe and Triton clients](../guides/other-clients.md) has examples of
tritonclient."""


def python_clients() -> dict[str, str]:
    """The lines of each Python client, by the name that the script gives it."""
    source = (CLIENTS / "python_clients.py").read_text()
    functions = {
        node.name: _body(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
    (names,) = (
        [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    )
    return {str(name): functions[str(name)] for name in names}


def node_clients() -> dict[str, str]:
    """The lines of each client for JavaScript, by its package."""
    source = (CLIENTS / "node_clients.mjs").read_text()
    return {match["name"]: dedent(match["code"]) for match in NODE_CLIENT.finditer(source)}


def _body(source: str, function: ast.FunctionDef) -> str:
    lines = source.splitlines(keepends=True)
    return dedent("".join(lines[function.body[0].lineno - 1 : function.end_lineno]))


def clients_page() -> str:
    """The page: a section for each client, with the code that is run."""
    lines = [INTRODUCTION]
    lines += _section("Python", "python", python_clients())
    lines += _section("JavaScript", "javascript", node_clients())
    java = (CLIENTS / "JdkClient.java").read_text()
    match = CURL.search((CLIENTS / "run").read_text())
    assert match is not None
    others = {
        "java.net.http, the client of Spring": ("java", java),
        "curl": ("sh", dedent(match[0])),
    }
    lines += ["", "## Others"]
    for name, (language, code) in others.items():
        lines += _block(name, language, code)
    scripts = {
        "KServe's SDK": "kserve_client.py",
        "MLServer's codecs": "mlserver_client.py",
    }
    sources = {name: (PROTOCOL_SCRIPTS / file).read_text() for name, file in scripts.items()}
    lines += _section("Open Inference Protocol", "python", sources)
    return "\n".join(lines) + "\n"


def _section(title: str, language: str, clients: dict[str, str]) -> Iterator[str]:
    yield from ("", f"## {title}")
    for name, code in clients.items():
        yield from _block(name, language, code)


def _block(name: str, language: str, code: str) -> Iterator[str]:
    yield from ("", f"### {name.replace('_', '-')}", "", f"```{language}", code.rstrip("\n"), "```")
