"""The records that one request uses, read together in one round trip."""

from dataclasses import dataclass
from typing import Any, Final

from stitchwork.errors import RegistryUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.redis.client import PREFIX
from stitchwork.registry.registry import Registry
from stitchwork.resources import Head, Space

LOOKUP: Final = """
local prefix, source, target, head, bridge = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
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
return {h, source, s, target, t, calibration}
"""


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
    if head is None and source is not None:
        # Without a head every id is known, and plain reads cost the server less than a script.
        ids = (source,) if target is None else (source, target)
        spaces, stale = registry.spaces.ready(*ids)
        return LookupResult(spaces[0], spaces[1] if target else None, None, None, stale)
    arguments = (source or "", target or "", head or "", bridge)
    try:
        reply = registry.server.run_script(LOOKUP, [], PREFIX, *arguments)
    except RegistryUnavailableError:
        return _last_known(registry, source, target, head, bridge)
    return _parsed(registry, reply, head, bridge)


def _parsed(
    registry: Registry, reply: list[Any], head_id: str | None, bridge: BridgeName
) -> LookupResult:
    stored_head, source_id, stored_source, target_id, stored_target, stored_calibration = reply
    head = registry.heads.parse(head_id, stored_head) if head_id else None
    source = registry.spaces.parse(source_id.decode(), stored_source)
    target = registry.spaces.parse(target_id.decode(), stored_target) if target_id else None
    calibration = None
    if head is not None and target is not None:
        calibration = registry.calibrations.parse(source, target, head, bridge, stored_calibration)
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
