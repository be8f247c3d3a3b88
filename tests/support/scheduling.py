"""How tests are distributed with `pytest -n`: by groups, and some alone at the end."""

from typing import Final

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE: Final = (
    "tests/chaos/test_attacks.py",
    "tests/chaos/test_drill.py",
    "tests/chaos/test_registry.py",
    "tests/chaos/test_rolling_upgrade.py",
    "tests/chaos/test_server_moves.py",
    "tests/chaos/test_servers.py",
    "tests/chaos/test_supervisor_death.py",
    "tests/chaos/test_version_leases.py",
    "tests/chaos/test_workers.py",
    "tests/system/test_large_bodies.py",
)
"""Tests that kill, pause and overload processes, or measure how soon they answer. They run when no
other test does."""

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

_LAST: Final = "alone"


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a group's tests to one process, one after another.

    Tests of `ALONE` come last: one process runs them after all others have ended.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(ALONE):
            return _LAST
        return next((name for name in GROUPS if nodeid.startswith(name)), nodeid.split("::")[0])

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a process the next group; the last one only if no other process remains."""
        group = next((name for name in self.workqueue if name != _LAST), _LAST)
        if group == _LAST:
            if any(not other.shutting_down for other in self.nodes if other is not node):
                node.shutdown()
                return
            if len(self.nodes) > 1:
                return  # until `remove_node`
        self.workqueue.move_to_end(group, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a process that has ended; the last group may have waited for it."""
        crashed: str | None = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return crashed
