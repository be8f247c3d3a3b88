"""The examples show what they claim, by the figures that they print."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.code_blocks import ROOT
from tests.support.running_service import running

pytestmark = [pytest.mark.models, pytest.mark.slow]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The options of an example: a running service, and its folder of models."""
    models = tmp_path_factory.mktemp("models")
    # A long queue: speed does not matter here.
    with running(roots=(models,), STITCHWORK_MAX_QUEUE_WAIT_SECONDS="60") as service:
        yield ["--url", service.url, "--models", str(models)]


def figures(name: str, flags: list[str]) -> list[float]:
    """Run an example as its reader does; the figures that it prints, in order."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / name), *flags],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [float(figure) for figure in re.findall(r"^.*: +([01]\.\d+)$", done.stdout, re.M)]


def test_head_is_as_accurate_with_another_encoder(flags: list[str]) -> None:
    chance, native, stitched = figures("reuse_a_head.py", flags)
    assert native > chance + 0.3
    assert stitched > native - 0.05


def test_names_are_classified_by_a_head_fitted_on_pictures(flags: list[str]) -> None:
    chance, pictures, names = figures("mix_modalities.py", flags)
    assert pictures > chance + 0.5
    assert names > chance + 0.3


def test_translated_store_is_searched_nearly_as_well_as_a_new_one(
    flags: list[str],
) -> None:
    before, after, anew, chance = figures("translate_a_store.py", flags)
    assert after > before - 0.05
    assert after > 0.8 * anew
    assert before > 5 * chance
