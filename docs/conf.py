"""Configuration of the pages at `/guide`, which Sphinx builds from this folder.

`index.md` is a plain list of links, which any viewer of Markdown shows; its sections become the
navigation.
"""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

PYPROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"
PROJECT: Final = tomllib.loads(PYPROJECT.read_text())["project"]
LINK: Final = re.compile(r"\]\(([\w/-]+)\.md\)")

project = "Stitchwork"
author = "the authors of Stitchwork"
project_copyright = author
version = release = PROJECT["version"]
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
# GitHub renders such a fence as a formula too.
myst_fence_as_directive = ["math"]
html_math_renderer = "mathml"
exclude_patterns = ["dashboards"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"
html_favicon = "../service/stitchwork/web/assets/icon.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
# No page has an icon or a font of another host.
html_theme_options = {"footer_icons": []}


def add_navigation(_: Any, page: str, source: list[str]) -> None:
    """Append the navigation to the first page: the links of each section, in order."""
    if page != "index":
        return
    for part in re.split(r"^## ", source[0], flags=re.MULTILINE):
        caption = part.partition("\n")[0].lstrip("# ")
        lines = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *LINK.findall(part), "```"]
        source[0] += "\n\n" + "\n".join(lines) + "\n"


def unlink_sources(app: Any, page: str, source: list[str]) -> None:
    """Make links to files outside this folder, which are not shipped, their plain texts."""
    folder = (Path(app.srcdir) / page).parent

    def text_of(match: re.Match[str]) -> str:
        is_own = (folder / match[2]).resolve().is_relative_to(app.srcdir)
        return match[0] if is_own else match[1]

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(([^):#\s]+)\)", text_of, source[0])


def add_formula(translator: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers render without a script or a font."""
    is_block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=is_block)
    translator.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (add_formula, None), (add_formula, None))
    app.connect("source-read", add_navigation)
    app.connect("source-read", unlink_sources)
