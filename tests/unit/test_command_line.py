"""The command line: its options, messages and environment, without processes."""

import ast
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import stitchwork
from stitchwork.api.limits import RequestLimits
from stitchwork.api.server import ServerOptions
from stitchwork.cli import settings_options
from stitchwork.cli.main import COMMANDS, commands, main
from stitchwork.cli.options import Command, WordsOption
from stitchwork.cli.output import cell, table
from stitchwork.cli.settings_options import (
    API_SETTINGS,
    SERVE_SETTINGS,
    WORKER_SETTINGS,
    SettingOption,
)
from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from stitchwork.settings import Settings

PACKAGE = Path(stitchwork.__file__).parent


def command_of(*path: str) -> click.Command:
    command: click.Command = commands
    for name in path:
        assert isinstance(command, click.Group)
        child = command.get_command(click.Context(command), name)
        assert child is not None
        command = child
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_the_summary_of_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"Usage: stitchwork {name} ")
    assert command_of(name).help


def test_settings_follow_the_commands_options_in_its_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["status", "--help"]) == 0
    own, _, settings = capsys.readouterr().out.partition("Settings (")
    assert "--json" in own
    assert "--redis-url URL" in settings
    assert "--max-rows" not in settings


def test_arguments_are_not_listed_among_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    usage, _, options = capsys.readouterr().out.partition("Options:")
    assert "[DATA]..." in usage
    assert "[DATA]..." not in options


def test_option_of_a_setting_has_its_type_default_and_description(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "--port PORT Port that the API listens on; 0 takes a free one. [default: 8765]",
        "--request-timeout-seconds SECONDS Timeout of a request. [default: 30]",
        "--offline / --no-offline Use local model files only, never a model hub. [default: off]",
        "--model-roots PATH[:...]",
        "--max-rows COUNT",
        "--max-body-bytes BYTES",
        "--log-level [debug|info|warning|error]",
    ):
        assert part in text


def test_every_setting_is_an_option_of_a_process() -> None:
    secret = {"admin_key"}
    assert set(Settings.model_fields) == API_SETTINGS | WORKER_SETTINGS | SERVE_SETTINGS | secret
    assert not secret & (API_SETTINGS | WORKER_SETTINGS | SERVE_SETTINGS), "ps shows options"


@pytest.mark.parametrize(("module", "names"), [("api", API_SETTINGS), ("worker", WORKER_SETTINGS)])
def test_settings_that_a_process_reads_are_its_options(module: str, names: set[str]) -> None:
    reads = {
        node.attr
        for file in (f"bootstrap/{module}.py", "bootstrap/shared.py")
        for node in ast.walk(ast.parse((PACKAGE / file).read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "settings"
    }
    if module == "api":
        for options in (RequestLimits, ServerOptions):
            reads |= {field.name for field in fields(options)}
        reads |= Settings().limits().keys()
    assert reads & Settings.model_fields.keys() - {"admin_key"} <= names
    command = {"host", "port", "unix_socket", "log_level", "drain_seconds", "require_keys"}
    unread = names - reads - command
    assert unread == set()


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--port", "9"], {"port": 9}),
        (["--offline"], {"offline": True}),
        (["--no-durable"], {"durable": False}),
        (["--model-roots", "/a:/b"], {"model_roots": (Path("/a"), Path("/b"))}),
        (["--hub-models", "a/*, b"], {"hub_models": ("a/*", "b")}),
        (["--rate-limits", "read=1/second"], {"rate_limits": {"read": "1/second"}}),
    ],
)
def test_options_are_settings(words: list[str], values: dict[str, Any]) -> None:
    command = settings_options.SettingsCommand(
        "probe", callback=lambda settings: settings, settings=set(Settings.model_fields)
    )
    settings = command.main(words, standalone_mode=False)
    assert settings == Settings(**values)
    assert settings.model_fields_set == set(values)
    assert all(isinstance(option, SettingOption) for option in command.params)


def test_option_precedes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHWORK_PORT", "1")
    monkeypatch.setenv("STITCHWORK_APIS", "2")
    settings = settings_options.load({"port": "3"})
    assert (settings.port, settings.apis) == (3, 2)


def test_wrong_setting_is_named_with_option_and_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["settings", "--apis", "0"]) == 2
    assert "apis (--apis or STITCHWORK_APIS): " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "words", "message"),
    [
        ("STITCHWORK_PROT", "1", ["settings"], "did you mean STITCHWORK_PORT?"),
        ("STITCHWORK_MAX_HELD", "1", ["settings"], "STITCHWORK_MAX_HELD is not a setting"),
        ("STITCHWORK_PORT", "tcp://10.0.0.7:8765", ["settings"], "service links of Kubernetes"),
        ("STITCHWORK_SERVICE_HOST", "10.0.0.7", ["settings"], "service links of Kubernetes"),
        ("STITCHWORK_API_PORT_80_TCP_ADDR", "10.0.0.7", ["settings"], "service links"),
        ("STITCHWORK_ULR", "x", ["spaces", "list"], "did you mean STITCHWORK_URL?"),
    ],
)
def test_unknown_variable_is_named(
    name: str,
    value: str,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STITCHWORK_URL", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    main(words)
    errors = capsys.readouterr().err
    assert name in errors
    assert message in errors
    assert words == ["spaces", "list"] or name not in os.environ


@pytest.mark.parametrize("name", ["STITCHWORK_URL", "STITCHWORK_KEY", "STITCHWORK_PORTS"])
@pytest.mark.parametrize("words", [["settings"], ["export", "x", "y"]])
def test_known_variable_is_not_named(
    name: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "value")
    main([*words, *(["--url", "http://127.0.0.1:1"] if words[0] == "export" else [])])
    assert name not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--images", "a", "b", "--top", "2", "c"], (("a", "b"), 2, "c")),
        (["c", "--images", "a", "--images", "b"], (("a", "b"), 1, "c")),
        (["--images", "a", "-", "--", "c"], (("a", "-"), 1, "c")),
        (["c"], ((), 1, "c")),
    ],
)
def test_words_option_takes_words_up_to_the_next_option(
    words: list[str], values: tuple[Any, ...]
) -> None:
    command = Command(
        "probe",
        callback=lambda images, top, name: (images, top, name),
        params=[
            WordsOption(["--images"]),
            click.Option(["--top"], type=int, default=1),
            click.Argument(["name"]),
        ],
    )
    assert command.main(words, standalone_mode=False) == values


def test_table_aligns_columns_of_any_script() -> None:
    text = table(("input", "n"), [("日本", 1.23456), ("a\x1b[31m", [1, 2])], title="T")
    assert text.splitlines() == ["T", "input   n", "------  -----", "日本    1.235", "a�[31m  1, 2"]
    assert cell(list(range(12))).endswith("… (12)")


@pytest.mark.parametrize("key", ["SECRETKEY\n", "clé", "SECRET KEY"])
def test_key_of_other_characters_is_refused_without_being_printed(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STITCHWORK_KEY", key)
    assert main(["spaces", "list"]) == 2
    message = capsys.readouterr().err
    assert "STITCHWORK_KEY (or --key) is not an API key: expected letters, digits" in message
    assert key.strip() not in message
    with pytest.raises(InvalidInputError, match="is not an API key"):
        Stitchwork()


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "0", "1e400", "soon"])
def test_timeout_that_is_no_positive_number_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spaces", "list", "--timeout", value]) == 2
    assert "--timeout: expected seconds, more than 0" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1])
def test_client_refuses_a_timeout_that_is_no_positive_number(value: float) -> None:
    with pytest.raises(InvalidInputError, match="timeout: expected seconds, more than 0"):
        Stitchwork(timeout=value)


@pytest.mark.parametrize(
    "words",
    [
        ["heads", "put", "../x", "--space", "x", "--classifier"],
        ["spaces", "show", ""],
        ["spaces", "show", "."],
        ["spaces", "delete", "x", "../y"],
        ["export", "x", "y/z"],
        ["translate", "a.npy", "b.npy", "--source", "x", "--target", "?"],
    ],
)
def test_id_is_checked_by_the_rule_of_the_service(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "expected an id of 1 to 128 letters, digits" in capsys.readouterr().err


def test_export_format_that_contradicts_the_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.onnx"
    assert main(["export", "a", "b", "-o", str(path), "--format", "safetensors"]) == 2
    assert "--format safetensors contradicts the name" in capsys.readouterr().err
    assert not path.exists()


def test_output_file_in_a_missing_folder_is_refused_by_the_folders_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, folder = tmp_path / "e.npy", tmp_path / "nope"
    np.save(rows, np.ones((2, 3), np.float32))
    words = ["translate", str(rows), str(folder / "o.npy"), "--source", "x", "--target", "y"]
    assert main(words) == 1
    assert capsys.readouterr().err == f"stitchwork: the folder {folder} does not exist\n"


def test_closed_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["settings"]) == 0


def test_server_that_cannot_be_reached_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STITCHWORK_REDIS_URL", "redis://user:SECRET@127.0.0.1:1")
    assert main(["status"]) == 1
    message = capsys.readouterr().err
    assert "redis://user:***@127.0.0.1:1: Connection refused" in message
    assert "SECRET" not in message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--rate-limits",
            "foo=1/minute",
            "expected 'read', 'infer', 'export' or 'admin', got 'foo'",
        ),
        (
            "--rate-limits",
            "infer=zz",
            "expected rates such as 100/minute;5000/day;64 items/second, of requests, items, "
            "tokens, pixels, got 'zz'",
        ),
        ("--device", "zz", "expected auto, cpu, cuda, cuda:N or mps, got 'zz'"),
        ("--port", "x", "expected a whole number, got 'x'"),
        ("--port", "99999", "expected at most 65535, got '99999'"),
    ],
)
def test_wrong_setting_is_refused_with_what_was_expected_and_what_came(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", option, value]) == 2
    name = option.removeprefix("--").replace("-", "_")
    expected = f"stitchwork: {name} ({option} or STITCHWORK_{name.upper()}): {message}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("group", ["spaces", "heads", "anchor-sets", "api-keys", "dead-letters"])
def test_summaries_of_subcommands_are_whole(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], [group]):
        assert main([*words, "--help"]) == 0
        text = capsys.readouterr().out
        assert "..." not in text.partition("Commands")[2]
        assert "…" not in text
