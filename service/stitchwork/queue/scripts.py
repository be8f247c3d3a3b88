"""The Lua scripts that keep the queue's keys consistent; `streams` describes the keys.

A number that a script computes must not be the negative of zero: `-0` becomes the text "-0", which
the HINCRBY of Redis 7.0 refuses. Scripts derive the names of some keys from others, which a Redis
Cluster would not allow.
"""

from typing import Final

# Defines `now`, milliseconds since the epoch by the server's clock.
NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_GROUP_STATE: Final = """
local function state(stream)
  local reply, fields = redis.call('XINFO', 'GROUPS', stream)[1] or {}, {}
  for i = 1, #reply, 2 do fields[reply[i]] = reply[i + 1] end
  return fields
end
local function first_waiting(stream)
  local last = state(stream)['last-delivered-id']
  return last and redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
end
local function age(entry) return now - tonumber(string.match(entry[1], '^%d+')) end
"""

# Admits a job unless a limit is reached.
# KEYS stream, jobs, bytes, apis
# ARGV job, inputs, stream name, model, max jobs, max bytes, max wait ms, workers, timeout ms, api
# Returns the entry's id, or which limit is reached.
ADMIT: Final = (
    NOW
    + _GROUP_STATE
    + """
local pace = KEYS[1] .. ':pace'
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
end
local jobs = redis.call('XLEN', KEYS[1])
if jobs == 0 then redis.call('HSET', pace, 'items', 0) end
if tonumber(ARGV[5]) > 0 then
  if jobs >= tonumber(ARGV[5]) then return 'max-jobs' end
  local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
  if bytes + #ARGV[1] > tonumber(ARGV[6]) then return 'max-bytes' end
  local first = first_waiting(KEYS[1])
  if first and age(first) > tonumber(ARGV[7]) then return 'max-age' end
  local fields = redis.call('HMGET', pace, 'items', 'ms')
  local wait = tonumber(fields[1] or '0') * tonumber(fields[2] or '0') / math.max(1, ARGV[8])
  if wait > tonumber(ARGV[7]) then return 'max-wait' end
end
if ARGV[10] ~= '' then redis.call('ZADD', KEYS[4], now, ARGV[10]) end
local size, deadline = #ARGV[1], now + ARGV[9]
local entry = redis.call('XADD', KEYS[1], '*', 'size', size, 'items', ARGV[2], 'deadline', deadline)
redis.call('SET', KEYS[1] .. ':' .. entry, ARGV[1])
redis.call('INCRBY', KEYS[3], size)
redis.call('HINCRBY', pace, 'items', ARGV[2])
return entry
"""
)

# Deletes an entry and its job; returns the number of its inputs.
_REMOVE: Final = """
local function remove(stream, bytes, entry)
  local record = redis.call('XRANGE', stream, entry, entry)[1]
  redis.call('DEL', stream .. ':' .. entry)
  if not record then return 0 end
  redis.call('XDEL', stream, entry)
  redis.call('DECRBY', bytes, record[2][2])
  local items = tonumber(record[2][4])
  redis.call('HINCRBY', stream .. ':pace', 'items', 0 - items)
  return items
end
"""

# Answers a job, unless another worker has it.
# KEYS stream, bytes, replies, apis
# ARGV entry, reply, api, ms after which an api is dead, ms of work
ANSWER: Final = (
    NOW
    + _REMOVE
    + """
if redis.call('XACK', KEYS[1], 'workers', ARGV[1]) == 0 then return 0 end
local items = remove(KEYS[1], KEYS[2], ARGV[1])
if tonumber(ARGV[5]) > 0 and items > 0 then
  local pace, ms = KEYS[1] .. ':pace', ARGV[5] / items
  local average = tonumber(redis.call('HGET', pace, 'ms') or ms)
  redis.call('HSET', pace, 'ms', average + 0.1 * (ms - average))
end
local heartbeat = ARGV[3] ~= '' and redis.call('ZSCORE', KEYS[4], ARGV[3])
if heartbeat and tonumber(heartbeat) > now - ARGV[4] then redis.call('RPUSH', KEYS[3], ARGV[2]) end
return 1
"""
)

# Removes a job that no worker has.
# KEYS stream, bytes · ARGV entry
CANCEL: Final = (
    _REMOVE
    + """
if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1) > 0 then return 0 end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
remove(KEYS[1], KEYS[2], ARGV[1])
return 1
"""
)

# Lists the streams that are not empty.
# KEYS jobs
BACKLOGS: Final = (
    NOW
    + _GROUP_STATE
    + """
local backlogs, streams = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #streams, 2 do
  local stream = KEYS[1] .. ':' .. streams[i]
  local jobs = redis.call('XLEN', stream)
  if jobs > 0 then
    local first = first_waiting(stream)
    local running, waited = state(stream)['pending'] or 0, first and age(first) or -1
    backlogs[#backlogs + 1] = {streams[i], streams[i + 1], jobs, running, waited}
  end
end
return backlogs
"""
)

# Whether a caller waits for a job that was admitted up to an entry id. The steps of registrations
# have no inputs, and nobody waits for them.
# KEYS jobs · ARGV entry id
HAS_UNANSWERED: Final = """
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  for _, record in ipairs(redis.call('XRANGE', KEYS[1] .. ':' .. name, '-', ARGV[1])) do
    if record[2][4] ~= '0' then return 1 end
  end
end
return 0
"""

# Sets the idle time of entries that this worker still has; others have been claimed meanwhile.
# KEYS stream · ARGV worker, idle ms, entries
RENEW: Final = """
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[i], ARGV[i], 1, ARGV[1]) > 0 then
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[i], 'IDLE', ARGV[2], 'JUSTID')
  end
end
return 1
"""

# KEYS dead · ARGV stream, entry, reason, job, max dead letters
DEAD_LETTER: Final = """
local id = redis.call('XADD', KEYS[1], '*', 'stream', ARGV[1], 'entry', ARGV[2],
                      'reason', ARGV[3], 'size', #ARGV[4])
redis.call('SET', KEYS[1] .. ':' .. id, ARGV[4])
while redis.call('XLEN', KEYS[1]) > tonumber(ARGV[5]) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
  redis.call('XDEL', KEYS[1], oldest)
  redis.call('DEL', KEYS[1] .. ':' .. oldest)
end
return id
"""

# KEYS dead · ARGV id
DELETE_DEAD_LETTER: Final = """
redis.call('DEL', KEYS[1] .. ':' .. ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])
"""

# A script that has written something may go on writing when the server is out of memory. So the
# next two begin by removing nothing: heartbeats matter most when memory is short.

# KEYS workers, announced · ARGV worker, status
HEARTBEAT: Final = (
    NOW
    + """
redis.call('ZREM', KEYS[1], '')
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return redis.call('ZADD', KEYS[1], now, ARGV[1])
"""
)

# KEYS workers, announced, apis · ARGV ms, api whose heartbeat this is, if any
LIVE_WORKERS: Final = (
    NOW
    + """
if ARGV[2] ~= '' then
  redis.call('ZREM', KEYS[3], '')
  redis.call('ZADD', KEYS[3], now, ARGV[2])
end
local names = redis.call('ZRANGEBYSCORE', KEYS[1], now - ARGV[1], '+inf')
if #names == 0 then return {} end
return redis.call('HMGET', KEYS[2], unpack(names))
"""
)

# Removes what dead processes and unused encoders left.
# KEYS workers, announced, apis, jobs · ARGV prefix of reply lists, ms for processes, ms for streams
REMOVE_EXPIRED: Final = (
    NOW
    + """
local removed = 0
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
  removed = removed + 1
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[2])) do
  redis.call('ZREM', KEYS[3], name)
  redis.call('DEL', ARGV[1] .. ':' .. name)
  removed = removed + 1
end
for _, name in ipairs(redis.call('HKEYS', KEYS[4])) do
  local stream = KEYS[4] .. ':' .. name
  if redis.call('XLEN', stream) == 0 then
    local reply = redis.call('XINFO', 'STREAM', stream)
    local last = '0'
    for i = 1, #reply, 2 do
      if reply[i] == 'last-generated-id' then last = reply[i + 1] end
    end
    if now - tonumber(string.match(last, '^%d+')) > tonumber(ARGV[3]) then
      redis.call('DEL', stream, stream .. ':pace')
      redis.call('HDEL', KEYS[4], name)
      removed = removed + 1
    end
  else
    for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', stream, 'workers')) do
      local consumer = {}
      for i = 1, #reply, 2 do consumer[reply[i]] = reply[i + 1] end
      if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', consumer['name'])
        removed = removed + 1
      end
    end
  end
end
return removed
"""
)
