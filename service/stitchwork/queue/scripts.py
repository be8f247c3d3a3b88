"""The Lua scripts that keep the queue's keys consistent; `keys` describes them.

A script touches only the keys that it is given, which are of one hash tag, as a Redis Cluster
requires. A number that a script computes must not be the negative of zero: `-0` becomes the text
"-0", which the HINCRBY of Redis 7.0 refuses.
"""

from typing import Final

# Defines `now`, milliseconds since the epoch by the server's clock.
NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Defines the value of a field of an entry.
_FIELD: Final = """
local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
end
"""

# Defines the first entry of a stream that no worker has had, and how long ago one was added.
_FIRST_WAITING: Final = """
local function group(stream)
  local reply, fields = redis.call('XINFO', 'GROUPS', stream)[1] or {}, {}
  for i = 1, #reply, 2 do fields[reply[i]] = reply[i + 1] end
  return fields
end
local function first_waiting(stream)
  local last = group(stream)['last-delivered-id']
  return last and redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
end
local function age(entry) return now - tonumber(string.match(entry[1], '^%d+')) end
"""

# Creates the streams of an encoder, one for each class of callers.
# KEYS catalog, streams · ARGV encoder, model, classes
CREATE_STREAMS: Final = """
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('XGROUP', 'CREATE', KEYS[i], 'workers', '0', 'MKSTREAM')
  end
end
-- Another API process may use more classes.
local before = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '0', '^%d+')
local classes = math.max(tonumber(ARGV[3]), tonumber(before))
redis.call('HSET', KEYS[1], ARGV[1], classes .. ':' .. ARGV[2])
return 1
"""

# Admits requests, each as a whole or not at all. An entry has the deadline `d`, inputs `n`, cost
# `c` and size `s` of its job, the wait `e` that was expected of it, and the job `m` or the name `k`
# of the key that has it.
# KEYS stream, bytes, apis, pace, payloads
# ARGV api, max jobs, max bytes, max wait ms, workers, requests; for each request: timeout ms,
#   inputs, cost, jobs; for each of its jobs: the job, inputs, cost, name of its payload or ''
# Returns for each request {'ok', entries}, {'no-stream'}, or {limit, inputs that fit, wait in ms}.
ADMIT: Final = (
    NOW
    + _FIELD
    + _FIRST_WAITING
    + """
local at = 6
local function take() at = at + 1; return ARGV[at] end
local function take_number() return tonumber(take()) end
local max_jobs, max_bytes, max_wait = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local workers, results = math.max(1, tonumber(ARGV[5])), {}
local exists = redis.call('EXISTS', KEYS[1]) == 1
local fields = redis.call('HMGET', KEYS[4], 'jobs', 'cost', 'ms')
local jobs, cost, pace = tonumber(fields[1] or '0'), tonumber(fields[2] or '0'), tonumber(fields[3])
local bytes = tonumber(redis.call('GET', KEYS[2]) or '0')
local first, overdue = max_jobs > 0 and exists and first_waiting(KEYS[1]), 0
if first then overdue = age(first) - tonumber(field(first, 'e') or '0') end
local added_jobs, added_cost, added_bytes, payload = 0, 0, 0, 4

local function wait_for(units) return pace and units * pace / workers or 0 end
local function refusal(timeout, inputs, units, parts, size)
  if max_jobs == 0 then return nil end
  if jobs + parts > max_jobs then
    return {'max-jobs', (max_jobs - jobs) * inputs / parts, 0}
  end
  if bytes + size > max_bytes then
    return {'max-bytes', (max_bytes - bytes) * inputs / size, 0}
  end
  if overdue > max_wait then return {'max-age', 0, 0} end
  local wait = wait_for(cost)
  if wait > max_wait then return {'max-wait', 0, wait - max_wait} end
  local own = wait_for(units)
  if own > 0 and wait + own > 0.9 * timeout then
    local fit = (0.9 * timeout - wait) / own * inputs
    -- What the estimate rests on may be wrong, which only work can show.
    if jobs == 0 then fit = math.max(1, fit) end
    if inputs > 1 or fit < 1 then return {'too-long', fit, wait + own - 0.9 * timeout} end
  end
end

for _ = 1, tonumber(ARGV[6]) do
  local timeout, inputs, units, parts = take_number(), take_number(), take_number(), take_number()
  local size, start = 0, at
  for i = 1, parts do size = size + #ARGV[start + 4 * i - 3] end
  local result = not exists and {'no-stream'} or refusal(timeout, inputs, units, parts, size)
  if result then
    at = start + 4 * parts
    for i = 1, parts do
      if ARGV[start + 4 * i] ~= '' then payload = payload + 1 end
    end
    for i = 2, #result do result[i] = math.floor(math.max(0, result[i])) end
  else
    result = {'ok'}
    for _ = 1, parts do
      local job, items, part_cost, name = take(), take(), take(), take()
      local content = {'m', job}
      if name ~= '' then
        payload = payload + 1
        redis.call('SET', KEYS[payload], job)
        content = {'k', name}
      end
      cost = cost + part_cost
      result[#result + 1] = redis.call('XADD', KEYS[1], '*', 'd', now + timeout, 'n', items,
        'c', part_cost, 's', #job, 'e', math.floor(wait_for(cost)), unpack(content))
    end
    jobs, bytes = jobs + parts, bytes + size
    added_jobs, added_cost, added_bytes = added_jobs + parts, added_cost + units, added_bytes + size
  end
  results[#results + 1] = result
end
if added_jobs > 0 then
  if ARGV[1] ~= '' then redis.call('ZADD', KEYS[3], now, ARGV[1]) end
  redis.call('INCRBY', KEYS[2], added_bytes)
  redis.call('HINCRBY', KEYS[4], 'jobs', added_jobs)
  redis.call('HINCRBY', KEYS[4], 'cost', added_cost)
end
return results
"""
)

# Delivers waiting jobs of the first encoder that has any whose turn it is. Its classes of callers
# share by deficit round robin: each has a credit in inputs, which lasts until it has no job left.
# KEYS for each encoder: credits, streams
# ARGV worker, max inputs, max bytes, quantum; for each encoder: streams, patience ms
# Returns now, the number of the encoder, and for each job {number of its stream, entry, fields}.
TAKE: Final = (
    NOW
    + _FIELD
    + _FIRST_WAITING
    + """
local free, room, quantum = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}
-- Reads entries of about as many inputs as `budget`; returns how many inputs, 0 if none waits.
local function read(key, number, budget)
  local total, largest = 0, 0
  repeat
    local count = largest == 0 and 1 or math.max(1, math.floor((budget - total) / largest))
    local reply = redis.pcall(
      'XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', count, 'STREAMS', key, '>')
    -- An error if the stream no longer exists.
    if not reply or reply.err then return total end
    local entries = reply[1][2]
    for i = 1, #entries do
      local inputs = math.max(1, tonumber(field(entries[i], 'n')))
      total, largest = total + inputs, math.max(largest, inputs)
      room = room - tonumber(field(entries[i], 's'))
      taken[#taken + 1] = {number, entries[i][1], entries[i][2]}
    end
    if #entries < count then return total end
  until total >= budget or room <= 0
  return total
end
local function read_fairly(credits, first, last)
  local classes = last - first + 1
  local credit = redis.call('HGETALL', credits)
  local saved, active = {next = 0}, classes
  for i = 1, #credit, 2 do saved[credit[i]] = tonumber(credit[i + 1]) end
  local number, idle = saved.next % classes, 0
  while free > 0 and room > 0 and idle < classes do
    local name = tostring(number)
    local budget = (saved[name] or 0) + quantum
    local inputs = budget > 0 and read(KEYS[first + number], first + number, math.min(budget, free))
    if inputs == 0 then
      idle, saved[name] = idle + 1, 0
    else
      idle, saved[name] = 0, budget - (inputs or 0)
      free = free - (inputs or 0)
    end
    number = (number + 1) % classes
  end
  if #taken > 0 then
    saved.next = number
    local words = {}
    for name, value in pairs(saved) do words[#words + 1] = name; words[#words + 1] = value end
    redis.call('HSET', credits, unpack(words))
  end
end
local key, argument = 1, 5
while argument < #ARGV do
  local streams, patience = tonumber(ARGV[argument]), tonumber(ARGV[argument + 1])
  local due = patience == 0
  for i = key + 1, key + streams do
    if not due and redis.call('EXISTS', KEYS[i]) == 1 then
      local first = first_waiting(KEYS[i])
      due = first and age(first) >= patience
    end
  end
  if due and streams == 1 then
    read(KEYS[key + 1], key + 1, free)
  elseif due then
    read_fairly(KEYS[key], key + 1, key + streams)
  end
  if #taken > 0 then return {now, (argument - 3) / 2, taken} end
  key, argument = key + streams + 1, argument + 2
end
return {now, 0, taken}
"""
)

# Answers jobs of one stream to one API process, each unless another worker has it.
# KEYS stream, bytes, replies, apis, pace, payloads
# ARGV api, ms after which an api is dead; for each job: entry, reply, size, cost, ms of work,
#   number of its payload or 0
# Returns for each whether it was answered.
ANSWER: Final = (
    NOW
    + """
local results, acknowledged, replies, payloads = {}, {}, {}, {}
local bytes, cost, work, worked_cost = 0, 0, 0, 0
for i = 3, #ARGV, 6 do
  local sent = redis.call('XACK', KEYS[1], 'workers', ARGV[i])
  results[#results + 1] = sent
  if sent == 1 then
    acknowledged[#acknowledged + 1] = ARGV[i]
    replies[#replies + 1] = ARGV[i + 1]
    bytes, cost = bytes + ARGV[i + 2], cost + ARGV[i + 3]
    if tonumber(ARGV[i + 4]) > 0 then
      work, worked_cost = work + ARGV[i + 4], worked_cost + ARGV[i + 3]
    end
    if ARGV[i + 5] ~= '0' then payloads[#payloads + 1] = KEYS[5 + ARGV[i + 5]] end
  end
end
if #acknowledged == 0 then return results end
redis.call('XDEL', KEYS[1], unpack(acknowledged))
redis.call('DECRBY', KEYS[2], bytes)
redis.call('HINCRBY', KEYS[5], 'jobs', 0 - #acknowledged)
redis.call('HINCRBY', KEYS[5], 'cost', 0 - cost)
if worked_cost > 0 then
  local ms = work / worked_cost
  local average = tonumber(redis.call('HGET', KEYS[5], 'ms') or ms)
  -- Slow batches are often the first ones of a model, or were disturbed; those that took long tell
  -- more than short ones.
  local weight = ms < average and 0.5 or math.max(0.2, work / (work + 500))
  redis.call('HSET', KEYS[5], 'ms', average + weight * (ms - average))
end
if #payloads > 0 then redis.call('DEL', unpack(payloads)) end
local heartbeat = ARGV[1] ~= '' and redis.call('ZSCORE', KEYS[4], ARGV[1])
if heartbeat and tonumber(heartbeat) > now - ARGV[2] then
  redis.call('RPUSH', KEYS[3], unpack(replies))
end
return results
"""
)

# Removes jobs of one stream, also those that a worker has: its answer is then ignored.
# KEYS stream, bytes, pace, payloads · ARGV entries
# Returns for each 0 if it was gone, 1 if it waited, 2 if a worker had it.
CANCEL: Final = (
    _FIELD
    + """
local results, jobs, bytes, cost = {}, 0, 0, 0
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  results[i] = entry and 1 or 0
  if entry then
    results[i] = 1 + redis.call('XACK', KEYS[1], 'workers', ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
    jobs, bytes, cost = jobs + 1, bytes + field(entry, 's'), cost + field(entry, 'c')
  end
end
if jobs == 0 then return results end
redis.call('DECRBY', KEYS[2], bytes)
redis.call('HINCRBY', KEYS[3], 'jobs', 0 - jobs)
redis.call('HINCRBY', KEYS[3], 'cost', 0 - cost)
if #KEYS > 3 then redis.call('DEL', unpack(KEYS, 4)) end
return results
"""
)

# The jobs of a stream that is not empty.
# KEYS stream · Returns jobs, those that a worker has, and for how long the first one has waited.
BACKLOG: Final = (
    NOW
    + _FIRST_WAITING
    + """
local jobs = redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XLEN', KEYS[1]) or 0
if jobs == 0 then return {0, 0, -1} end
local first = first_waiting(KEYS[1])
return {jobs, group(KEYS[1])['pending'] or 0, first and age(first) or -1}
"""
)

# Whether a caller waits for a job of a stream that was admitted up to an entry id. The steps of
# registrations have no inputs, and nobody waits for them.
# KEYS stream · ARGV entry id
HAS_UNANSWERED: Final = (
    _FIELD
    + """
local start = '-'
repeat
  local entries = redis.call('XRANGE', KEYS[1], start, ARGV[1], 'COUNT', 16)
  for _, entry in ipairs(entries) do
    if field(entry, 'n') ~= '0' then return 1 end
    start = '(' .. entry[1]
  end
until #entries < 16
return 0
"""
)

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
