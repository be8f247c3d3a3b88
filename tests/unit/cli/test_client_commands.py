"""What commands for a running service print of its responses: errors by file and line, warnings."""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from safetensors.numpy import save

from stitchwork import Stitchwork
from stitchwork.cli.main import main
from stitchwork.cli.tls_hints import add_tls_hint
from stitchwork.errors import ErrorCode, UnavailableError
from tests.support.http_responder import Response, http_responder
from tests.support.moved_stores import make_map, make_vectors

MAX_ITEMS = 100
LIMITS = {"max_rows": 1000, "max_items": MAX_ITEMS, "max_body_bytes": 1 << 20}
EMPTY = "expected a text that is not empty"
LONG = "expected at most 4 tokens, got 9; set truncate to cut the text"


def respond(method: str, path: str, body: bytes) -> Response:
    """Embeds and classifies texts as zeros; blank ones are refused, and long ones if not cut."""
    if path == "/info":
        return Response(json.dumps({"limits": LIMITS}).encode())
    if path.startswith("/spaces/"):
        return Response(make_map().data)
    fields = json.loads(body)
    for number, text in enumerate(fields["items"]):
        problem = {"pointer": f"/items/{number}"}
        if not text.strip():
            problem |= {"code": ErrorCode.INVALID_INPUT, "detail": EMPTY}
        elif len(text) > 9 and not fields.get("truncate"):
            problem |= {"code": ErrorCode.TOO_MANY_TOKENS, "detail": LONG}
        else:
            continue
        return Response(json.dumps(problem).encode(), 422)
    return Response(save({"embeddings": np.zeros((len(fields["items"]), 3), np.float32)}))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http_responder(respond) as address:
        yield f"http://{address}"


def embed(url: str, folder: Path, texts: list[str], *words: str, name: str = "texts.txt") -> int:
    (folder / name).write_text("".join(f"{text}\n" for text in texts))
    out = str(folder / "out.npy")
    return main(["embed", "mini", out, "--texts", str(folder / name), "--url", url, *words])


def test_refused_text_is_named_by_its_line_without_advice_to_resume(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(url, tmp_path, ["a", "b", "c", " ", "e"]) == 1
    assert capsys.readouterr().err == f"stitchwork: {tmp_path}/texts.txt, line 4: {EMPTY}\n"


def test_refused_text_of_a_table_is_named_by_its_number(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["text", '"two\nlines"', '" "']
    assert embed(url, tmp_path, texts, name="texts.csv") == 1
    assert capsys.readouterr().err == f"stitchwork: {tmp_path}/texts.csv, text 2: {EMPTY}\n"


def test_refused_text_of_a_later_part_is_named_by_its_line_before_how_to_go_on(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"text {i}" for i in range(3 * MAX_ITEMS)]
    texts[250] = ""
    assert embed(url, tmp_path, texts) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"stitchwork: {tmp_path}/texts.txt, line 251: {EMPTY}",
        f"stitchwork: the rows that have arrived are in {tmp_path}/out.npy.part; once that input "
        "is corrected, --resume computes the others",
    ]
    texts[250] = "other"
    assert embed(url, tmp_path, texts, "--resume") == 0
    assert np.load(tmp_path / "out.npy").shape == (3 * MAX_ITEMS, 3)


def test_text_that_is_too_long_is_cut_by_an_option_which_its_refusal_names(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["short", "far too long"]
    assert embed(url, tmp_path, texts) == 1
    message = f"stitchwork: {tmp_path}/texts.txt, line 2: {LONG}, by --truncate\n"
    assert capsys.readouterr().err == message
    assert embed(url, tmp_path, texts, "--truncate") == 0
    capsys.readouterr()
    (tmp_path / "labels.txt").write_text("yes\nno\n")
    options = ["--texts", str(tmp_path / "texts.txt"), "--url", url]
    for command in (
        ["stitch", "mini", "intent", *options],
        ["evaluate-head", "mini", "intent", "--labels", str(tmp_path / "labels.txt"), *options],
    ):
        assert main(command) == 1
        assert capsys.readouterr().err == message
        # The server has no predictions: the text is no longer what is refused.
        main([*command, "--truncate"])
        assert "tokens" not in capsys.readouterr().err


def test_warnings_of_a_move_are_printed_once_and_its_versions_on_lines_of_their_own(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rows whose lengths do not fit the anchors are doubtful.
    rows = enumerate((10 * make_vectors(50)).tolist())
    lines = [json.dumps({"id": str(number), "embedding": row}) for number, row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert main(["migrate", *paths, "--from", "x", "--to", "y", "--url", url]) == 0
    output = capsys.readouterr()
    assert (output.out + output.err).count("the lengths of 50 of 50 rows") == 1
    assert "the lengths of" in output.err
    table = {" ".join(line.split()) for line in output.out.splitlines()}
    assert {"source space x", "source version x1", "target version y1", "bridge ridge"} < table


def test_service_with_tls_is_named_where_a_connection_without_it_was_cut(
    certificates: Path,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    with http_responder(respond, context) as address:
        with (
            Stitchwork(f"http://{address}", retries=0) as client,
            pytest.raises(UnavailableError, match="was cut") as cut,
        ):
            client.get("spaces", "x")
        add_tls_hint(cut.value, client.url)
    expected = [f"the service speaks TLS there: use https://{address}"]
    assert cut.value.__notes__ == expected


def test_service_without_tls_that_cuts_connections_gets_no_hint() -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    error = UnavailableError("the connection was cut", code=ErrorCode.CONNECTION_CUT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=answer, args=(listener,))
        thread.start()
        add_tls_hint(error, f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert not hasattr(error, "__notes__")
