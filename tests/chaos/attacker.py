"""Sends requests again and again until its standard input ends; run as a program.

    python attacker.py REQUESTS

REQUESTS is a JSON file with the host, the port, the headers of all requests, and the requests: each
has a path, a file with its body, further headers and a pause in seconds after each response.
Each request has a thread and a connection of its own. A line is printed once half of them have been
answered, and at the end the number of responses of each request by their statuses.
"""

import json
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

SECONDS = 600.0
"""Far more than any response takes."""
REFUSED_UNHEARD = 0
"""In place of the status of a refusal that was lost, since the body was still being sent."""
LOW_PRIORITY = 19
"""What attackers compute is no work of the service, and takes no time from it."""


def main() -> None:
    """Attack."""
    os.nice(LOW_PRIORITY)
    plan = json.loads(Path(sys.argv[1]).read_text())
    bodies = {name: Path(name).read_bytes() for name in {r["body"] for r in plan["requests"]}}
    stop, outcomes = threading.Event(), [Counter[int]() for _ in plan["requests"]]

    def attack(number: int) -> None:
        request: dict[str, Any] = plan["requests"][number]
        headers = plan["headers"] | request["headers"]
        with closing(HTTPConnection(plan["host"], plan["port"], timeout=SECONDS)) as connection:
            while not stop.is_set():
                # A body that is refused need not be sent to its end.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request("POST", request["path"], bodies[request["body"]], headers)
                try:
                    response = connection.getresponse()
                    response.read()
                    status, pause = response.status, response.headers["retry-after"]
                except (HTTPException, ConnectionError):
                    connection.close()
                    status, pause = REFUSED_UNHEARD, "1"
                outcomes[number][status] += 1
                if sum(map(bool, outcomes)) >= len(outcomes) / 2:
                    has_begun.set()
                stop.wait(request["pause"])
                if status in (429, REFUSED_UNHEARD):
                    stop.wait(min(1.0, float(pause)))

    has_begun = threading.Event()
    with ThreadPoolExecutor(len(outcomes)) as pool:
        futures = [pool.submit(attack, number) for number in range(len(outcomes))]
        has_begun.wait(SECONDS)
        write("attack begun")
        sys.stdin.read()
        stop.set()
        for future in futures:
            future.result()
    write(json.dumps(outcomes))


def write(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
