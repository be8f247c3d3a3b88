"""How tests are distributed with `pytest -n`: by groups, and drills alone at the end."""

from typing import Final

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

DRILLS: Final = "tests/chaos/"
"""Tests that kill, pause and overload processes. They run when no other test does."""

GROUPS: Final = (
    "tests/integration/api/",
    "tests/integration/protocols/",
    "tests/integration/client/",
    "tests/integration/inference/",
    "tests/integration/web/",
    "tests/system/telemetry/",
    "tests/unit/",
)
"""Folders each of which one process runs as a whole: its tests share a service, or are short.
Every other module is a group too."""


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a group's tests to one process, one after another.

    The drills come last: one process runs them after all others have ended.
    """

    def _split_scope(self, nodeid: str) -> str:
        groups = (DRILLS, *GROUPS)
        return next((name for name in groups if nodeid.startswith(name)), nodeid.split("::")[0])

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a process the next group; the drills only once it is the last process."""
        group = next((name for name in self.workqueue if name != DRILLS), DRILLS)
        if group == DRILLS:
            if any(not other.shutting_down for other in self.nodes if other is not node):
                node.shutdown()
                return
            if len(self.nodes) > 1:
                return  # until `remove_node`
        self.workqueue.move_to_end(group, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a process that has ended; the drills may have waited for it."""
        crashed: str | None = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return crashed
