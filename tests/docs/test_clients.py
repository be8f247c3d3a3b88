"""Clients of other services: `.ci/clients/run` runs each, and the guide has it in its table."""

import re
from collections import Counter
from typing import Final

import pytest

from tests.support.client_page import CLIENTS, node_clients, python_clients
from tests.support.code_blocks import ROOT

RUN: Final = (CLIENTS / "run").read_text().replace("\\\n", " ")
GUIDE: Final = (ROOT / "docs/guides/openai-clients.md").read_text()
TABLE: Final = GUIDE.partition("## Tested clients")[2]
assert TABLE
ROW_NAMES: Final = {
    "mem0": "mem0ai",
    "langchain_nvidia": "langchain-nvidia-ai-endpoints",
    "llama_index_nvidia": "llama-index-embeddings-nvidia",
    "xinference": "xinference-client",
    "huggingface_hub": "huggingface_hub",
    "cohere-ai": "cohere",
    "ai": "Vercel `ai`",
}
"""What a row of the guide calls a client, where that is not the script's name of it."""


def test_every_python_client_is_run_in_one_environment() -> None:
    environments = re.findall(r"^start python_clients .* -- (.*)$", RUN, re.MULTILINE)
    names = Counter(name for clients in environments for name in clients.split())
    assert names == Counter(dict.fromkeys(python_clients(), 1))


def test_clients_that_are_left_out_are_all_those_of_the_registry() -> None:
    """The names in the last line of a run without npm are read from the script by this pattern."""
    assert r's/^await client("\([^"]*\)".*/\1 (JavaScript)/p' in RUN
    source = (CLIENTS / "node_clients.mjs").read_text()
    assert len(re.findall(r"^await client\(", source, re.MULTILINE)) == len(node_clients()) >= 5


@pytest.mark.parametrize("name", [*python_clients(), *node_clients(), "java.net.http", "curl"])
def test_guide_says_which_calls_of_a_client_are_made(name: str) -> None:
    label = re.escape(ROW_NAMES.get(name, name.replace("_", "-")))
    rows = [row for row in TABLE.splitlines() if row.startswith("|")]
    assert any(re.search(rf"(?<![\w/-]){label}(?![\w/-])", row.split("|")[1]) for row in rows)
