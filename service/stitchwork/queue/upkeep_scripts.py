"""The Lua scripts of dead letters, of heartbeats, and of what dead processes left.

`scripts` has the rules that they follow.
"""

from typing import Final

from stitchwork.queue.scripts import NOW

# KEYS dead, dead jobs · ARGV stream, entry, reason, job, max dead letters
DEAD_LETTER: Final = """
local id = redis.call('XADD', KEYS[1], '*', 'stream', ARGV[1], 'entry', ARGV[2],
                      'reason', ARGV[3], 'size', #ARGV[4])
redis.call('HSET', KEYS[2], id, ARGV[4])
while redis.call('XLEN', KEYS[1]) > tonumber(ARGV[5]) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
  redis.call('XDEL', KEYS[1], oldest)
  redis.call('HDEL', KEYS[2], oldest)
end
return id
"""

# KEYS dead, dead jobs · ARGV id
DELETE_DEAD_LETTER: Final = """
redis.call('HDEL', KEYS[2], ARGV[1])
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

# Removes processes that have been silent, and the statuses of those that are in no other set.
# KEYS processes, statuses by process, other sets of processes · ARGV ms
# Returns their names.
REMOVE_SILENT: Final = (
    NOW
    + """
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
for _, name in ipairs(names) do
  redis.call('ZREM', KEYS[1], name)
  local is_alone = true
  for i = 3, #KEYS do is_alone = is_alone and not redis.call('ZSCORE', KEYS[i], name) end
  if is_alone then redis.call('HDEL', KEYS[2], name) end
end
return names
"""
)

# Removes an encoder whose streams are empty and have been for long, or else the consumers of its
# streams that dead workers left. How fast it was is remembered for longer.
# KEYS catalog, pace, credits, callers, streams
# ARGV encoder, ms for consumers, ms for streams, seconds for the pace
# Returns how many were removed.
REMOVE_IDLE: Final = (
    NOW
    + """
local idle = true
for i = 5, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    local reply, last = redis.call('XINFO', 'STREAM', KEYS[i]), '0'
    for j = 1, #reply, 2 do
      if reply[j] == 'last-generated-id' then last = reply[j + 1] end
    end
    local silence = now - tonumber(string.match(last, '^%d+'))
    idle = idle and redis.call('XLEN', KEYS[i]) == 0 and silence > tonumber(ARGV[3])
  end
end
if idle then
  local pace = redis.call('HMGET', KEYS[2], 'ms', 'work')
  redis.call('DEL', unpack(KEYS, 2))
  if pace[1] then
    redis.call('HSET', KEYS[2], 'ms', pace[1], 'work', pace[2] or 0)
    redis.call('EXPIRE', KEYS[2], ARGV[4])
  end
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
local removed = 0
for i = 5, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[i], 'workers')) do
      local consumer = {}
      for j = 1, #reply, 2 do consumer[reply[j]] = reply[j + 1] end
      if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[i], 'workers', consumer['name'])
        removed = removed + 1
      end
    end
  end
end
return removed
"""
)
