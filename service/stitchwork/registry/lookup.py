"""The records that one request uses: from memory, or read together in one round trip."""

from dataclasses import dataclass
from typing import Any, Final

from stitchwork.errors import RegistryUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.registry.change_log import Position
from stitchwork.registry.change_log_start import EPOCH
from stitchwork.registry.registry import Registry
from stitchwork.resources import Head, Space

LOOKUP: Final = (
    EPOCH
    + """
local prefix, source, target, head, bridge = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local function fields(kind, id)
    return redis.call('HMGET', prefix .. kind .. ':' .. id, 'record', 'draft')
end
-- Ids and versions have no quotes, and stand before anything that a client could make up.
local function member(record, name)
    return string.match(record, '"' .. name .. '":"([^"]*)"') or ''
end
local h, s, t, calibration = false, false, false, false
if head ~= '' then
    h = fields('head', head)
    if h[1] then
        local home = member(h[1], 'space')
        if source == '' then source = home end
        if target == '' then target = home end
    end
end
if source ~= '' then s = fields('space', source) end
if target ~= '' then
    if target == source then t = s else t = fields('space', target) end
end
if h and s and t and h[1] and s[1] and t[1] then
    local versions = member(h[1], 'version') .. ':' .. member(t[1], 'version') .. ':' ..
        member(s[1], 'version')
    calibration = redis.call(
        'HGET', prefix .. 'head:' .. head .. ':calibrations', versions .. ':' .. bridge)
end
return {epoch, sequence, h, source, s, target, t, calibration}
"""
)


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The records that serve now.

    Attributes:
        source: The space that inputs are in.
        target: The space they are translated into, if they are.
        head: The head that classifies them, if one does.
        calibration: The calibration of the head for these versions and the bridge.
        stale: Whether these are only the last known.
    """

    source: Space
    target: Space | None
    head: Head | None
    calibration: Calibration | None
    stale: bool


def lookup(
    registry: Registry,
    *,
    source: str | None,
    target: str | None,
    head: str | None,
    bridge: BridgeName,
) -> LookupResult:
    """Read the records of a request; where an id is None, the head's own space takes its place.

    Raises:
        UnknownResourceError: If an id is not registered.
        NotReadyError: If an id has no version that serves yet.
        RegistryUnavailableError: If the registry is unavailable and the last known records are too
            old.
    """
    arguments = (source or "", target or "", head or "", bridge)
    try:
        position, reply = registry.changes.read(LOOKUP, registry.server.key(""), *arguments)
    except RegistryUnavailableError:
        return _last_known(registry, source, target, head, bridge)
    return _parsed(registry, position, reply, head, bridge)


def lookup_in_memory(
    registry: Registry,
    *,
    source: str | None,
    target: str | None,
    head: str | None,
    bridge: BridgeName,
) -> LookupResult | None:
    """Like `lookup`, without a call; None if the lease has run out, or a record is not in memory.

    What it returns was current when it was called.
    """
    if not registry.lease.is_valid:
        return None
    head_record = source_record = target_record = None
    if head is not None:
        head_record = registry.heads.current(head)
        if head_record is None:
            return None
        source, target = source or head_record.space, target or head_record.space
    if source is not None:
        source_record = registry.spaces.current(source)
    if source_record is None:
        return None
    if target is not None:
        target_record = registry.spaces.current(target)
        if target_record is None:
            return None
    if head_record is None or target_record is None:
        return LookupResult(source_record, target_record, None, None, stale=False)
    known = registry.calibrations.current(source_record, target_record, head_record, bridge)
    if known is None:
        return None
    return LookupResult(source_record, target_record, head_record, known.calibration, stale=False)


def _parsed(
    registry: Registry,
    position: Position,
    reply: list[Any],
    head_id: str | None,
    bridge: BridgeName,
) -> LookupResult:
    stored_head, source_id, stored_source, target_id, stored_target, stored_calibration = reply
    spaces = registry.spaces
    head = registry.heads.parse(head_id, stored_head, position) if head_id else None
    source = spaces.parse(source_id.decode(), stored_source, position)
    target = spaces.parse(target_id.decode(), stored_target, position) if target_id else None
    calibration = None
    if head is not None and target is not None:
        calibration = registry.calibrations.parse(
            source, target, head, bridge, stored_calibration, position
        )
    return LookupResult(source, target, head, calibration, stale=False)


def _last_known(
    registry: Registry,
    source_id: str | None,
    target_id: str | None,
    head_id: str | None,
    bridge: BridgeName,
) -> LookupResult:
    head = registry.heads.last_known(head_id) if head_id else None
    home = head.space if head else None
    source = registry.spaces.last_known(source_id or home or "")
    last = target_id or home
    target = registry.spaces.last_known(last) if last else None
    calibration = None
    if head is not None and target is not None:
        calibration = registry.calibrations.last_known(source, target, head, bridge)
    return LookupResult(source, target, head, calibration, stale=True)
