"""The server of the API in its process."""

import subprocess
import sys

from tests.support import machine

PROGRAM = """
import asyncio, gc, socket, threading
import uvicorn
from stitchwork.api.server import DrainingServer

class Server(DrainingServer):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        is_frozen = gc.get_freeze_count() > len(gc.get_objects())
        print(is_collected(), is_frozen, gc.isenabled())
        self.should_exit = True

async def app(scope, receive, send):
    pass

def is_collected():
    return any(value is state for value in gc.get_objects())

state = [[]]
print(is_collected())
gc.disable()
server = Server(uvicorn.Config(app, lifespan="off", log_config=None), threading.Event(), 0)
with socket.create_server(("127.0.0.1", 0)) as listener:
    asyncio.run(server.serve([listener]))
"""


def test_objects_that_exist_at_startup_are_exempt_from_garbage_collection() -> None:
    """In another process, since the garbage collector is one of the whole process."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=machine.deadline(60),
        check=False,
    )
    assert process.stdout.split() == ["True", "False", "True", "True"], process.stderr
