"""The rules of verdicts in the documentation are those of the code."""

import re
from pathlib import Path
from typing import Final

from stitchwork.api.reports import verdicts
from stitchwork.geometry.diagnostics.cross_validation import MIN_ANCHORS
from stitchwork.registry.declarations import SUSPICIOUS

PAGE: Final = Path(__file__).parents[2] / "docs" / "guides" / "confidence.md"
RATIO: Final = (verdicts.GOOD_RATIO, verdicts.FAIR_RATIO)
GAIN: Final = (verdicts.GOOD_GAIN, verdicts.FAIR_GAIN)
LIMITS: Final = {
    "two spaces": (verdicts.GOOD_SIMILARITY, verdicts.FAIR_SIMILARITY),
    "a head whose native accuracy is known": RATIO,
    "a head whose native accuracy is unknown": GAIN,
    "a regression whose native `r2` is known": RATIO,
    "a regression whose native `r2` is unknown": GAIN,
}
RULES: Final = (
    f"with fewer than {MIN_ANCHORS} anchors",
    f"is wider than {verdicts.MAX_INTERVAL}:",
    f"between -{SUSPICIOUS} and {SUSPICIOUS},",
)


def rules() -> str:
    """The section that explains verdicts."""
    _, _, rest = PAGE.read_text().partition("## What the verdicts mean\n")
    section, *_ = rest.split("\n## ")
    return section


def test_table_of_verdicts_has_the_limits_of_the_code() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", rules(), re.MULTILINE)
    assert {name: (float(good), float(fair)) for name, good, fair in rows} == LIMITS


def test_other_rules_of_verdicts_have_the_numbers_of_the_code() -> None:
    text = " ".join(rules().split())
    assert [rule for rule in RULES if rule not in text] == []


def test_verdict_has_no_limit_that_the_documentation_lacks() -> None:
    limits = {value for name, value in vars(verdicts).items() if re.match("(GOOD|FAIR|MAX)_", name)}
    assert limits == {*(limit for pair in LIMITS.values() for limit in pair), verdicts.MAX_INTERVAL}
