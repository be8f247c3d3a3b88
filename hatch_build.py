"""Builds the documentation with the package, which serves it at `/guide`."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "stitchwork/web/guide"


class GuideHook(BuildHookInterface[Any]):
    """Adds the built pages to a wheel; for an editable install, to the source tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build."""
        root = Path(self.root)
        if version == "editable":
            build_guide(root, root / "service" / PLACE)
            return
        self._folder = tempfile.TemporaryDirectory()
        build_guide(root, Path(self._folder.name))
        build_data["force_include"][self._folder.name] = PLACE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called after the build."""
        if version != "editable":
            self._folder.cleanup()


def build_guide(root: Path, target: Path) -> None:
    """Build the pages into a folder."""
    subprocess.run([sys.executable, root / "docs/build_guide.py", target], check=True)
