"""What is measured and what is not."""

from collections.abc import Sequence

from benchmarks.cores import pinned_to
from benchmarks.measure import BenchmarkContext, BenchmarkResult
from benchmarks.runner import Case, measure
from stitchwork.errors import UnavailableError

ONE = BenchmarkResult("one", "other", "ms", [1.0], [2.0], 1.0, False)


def test_error_is_logged_and_named_without_its_message() -> None:
    lines: list[str] = []
    context = BenchmarkContext(1, {}, lines.append)
    for error in (UnavailableError("/a/path did not start"), OSError("no file /a/path")):
        with context.attempt("ray"):
            raise error
    assert context.peer("celery") is None
    assert context.not_measured == ["ray (failed)", "ray (failed)", "celery (no environment)"]
    assert lines[:2] == [
        "  ray failed: /a/path did not start",
        "  ray failed: OSError('no file /a/path')",
    ]


def test_results_are_saved_after_each_case_and_the_others_are_named() -> None:
    def fail(_: BenchmarkContext) -> list[BenchmarkResult]:
        raise OSError("no file")

    cases: dict[str, Case] = {"first": lambda _: [ONE], "second": fail, "third": lambda _: [ONE]}
    saved: list[tuple[int, list[str]]] = []

    def save(results: Sequence[BenchmarkResult], not_measured: Sequence[str]) -> None:
        saved.append((len(results), list(not_measured)))

    with pinned_to([0]):
        assert not measure(cases, 1, None, save)
        assert saved == [
            (1, ["second (not run)", "third (not run)"]),
            (1, ["second (failed)", "third (not run)"]),
            (2, ["second (failed)"]),
        ]
        assert measure({"first": cases["first"]}, 1, None, save)
