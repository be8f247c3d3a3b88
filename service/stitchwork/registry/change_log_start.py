"""How a change log begins; without the client, which the supervisor need not load.

What the log promises, and why, is in `change_log`.
"""

from typing import Final

STATE: Final = "versions"
KEYS: Final = (STATE, STATE + ":changes", STATE + ":applied", STATE + ":granted")

# Begins every script of the log. ARGV[1] is the name of a new epoch, if one begins.
EPOCH: Final = """
local state, changes, applied, granted = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local recorded = redis.call('HMGET', state, 'run', 'epoch', 'sequence', 'settled', 'trimmed')
local epoch, sequence = recorded[2], tonumber(recorded[3] or 0)
local settled, trimmed = recorded[4], tonumber(recorded[5] or 0)
if recorded[1] ~= run then
  epoch, settled = ARGV[1], false
  redis.call('DEL', applied, granted)
  redis.call('HDEL', state, 'settled')
  redis.call('HSET', state, 'run', run, 'epoch', epoch, 'sequence', sequence)
end
"""

# ARGV: the name of the new epoch.
BEGIN: Final = f"{EPOCH} return redis.call('HSET', state, 'settled', 1)"
"""Begins the log of a new registry, for whoever knows that no process of the service runs.

Its first writers need not wait for leases of earlier epochs.
"""
