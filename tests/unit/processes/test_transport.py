"""Messages between processes: what goes in comes out."""

import gc
import socket
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from stitchwork.processes import transport


def sent(value: Any) -> Any:
    """A value after its way through a connection."""
    left, right = socket.socketpair()
    with left, right:
        sender = threading.Thread(target=transport.send, args=(left, transport.pack(value)))
        sender.start()
        result = transport.unpack(transport.receive(right))
        sender.join()
    return result


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        b"",
        {"a": [1, "b", 2.5], "c": ("d", b"e")},
        "ö" * 100_000,
        "\ud800" * 100_000,
        b"x" * 1_000_000,
        list(range(20_000)),
        [[[i] * 5] for i in range(9_000)],
        ["y" * 70_000, ["z" * 70_000] * 3],
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_message_of_a_value_returns_it(value: Any) -> None:
    assert sent(value) == value


def test_message_of_arrays_returns_them_without_a_copy() -> None:
    rows = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    result = sent([{"rows": rows}, rows[:0], np.asfortranarray(rows)] + [rows[:1]] * 5_000)
    np.testing.assert_array_equal(result[0]["rows"], rows)
    np.testing.assert_array_equal(result[2], rows)
    np.testing.assert_array_equal(result[-1], rows[:1])
    assert result[1].shape == (0, 1000)
    assert not result[0]["rows"].flags.owndata


def test_message_of_a_process_that_ended_is_an_error() -> None:
    left, right = socket.socketpair()
    with right:
        with left:
            left.sendall(b"\1\0")
        with pytest.raises(EOFError):
            transport.receive(right)


def test_message_is_gone_with_its_parts() -> None:
    value = memoryview(bytes(transport.LONG_VALUE))
    reference = weakref.ref(value)
    gc.disable()
    try:
        parts = transport.pack([value])
        del value, parts
        assert reference() is None
    finally:
        gc.enable()
