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
FIELD: Final = """
local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
end
"""

# Defines the first entry of a stream that no worker has had, and how long ago one was added.
FIRST_WAITING: Final = """
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

# Defines the record of a caller that has jobs of an encoder, and how it changes.
# The record is the text `class:weight:jobs:inputs:bytes`. The weight of a class is that of all
# callers in it, so that classes get what their callers would get alone.
CALLERS: Final = """
local function read_caller(callers, name)
  local text = name ~= '' and redis.call('HGET', callers, name)
  if not text then return {jobs = 0, inputs = 0, bytes = 0} end
  local class, weight, jobs, inputs, bytes =
    string.match(text, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
  return {class = tonumber(class), weight = tonumber(weight), jobs = tonumber(jobs),
    inputs = tonumber(inputs), bytes = tonumber(bytes)}
end
local function write_caller(callers, name, caller)
  redis.call('HSET', callers, name, string.format('%.0f:%.0f:%.0f:%.0f:%.0f', caller.class,
    caller.weight, caller.jobs, caller.inputs, caller.bytes))
end
"""

# Defines what the end of jobs of one class gives back. `totals` has the jobs, inputs and bytes of
# each caller.
RELEASE: Final = (
    CALLERS
    + """
local function release(bytes_key, pace, callers, class, cost, totals)
  local jobs, bytes = 0, 0
  for name, total in pairs(totals) do
    jobs, bytes = jobs + total.jobs, bytes + total.bytes
    local caller = read_caller(callers, name)
    if caller.class then
      caller.jobs, caller.inputs = caller.jobs - total.jobs, caller.inputs - total.inputs
      caller.bytes = caller.bytes - total.bytes
      if caller.jobs > 0 then
        write_caller(callers, name, caller)
      else
        redis.call('HDEL', callers, name)
        redis.call('HINCRBY', pace, 'weight:' .. caller.class, 0 - caller.weight)
      end
    end
  end
  redis.call('DECRBY', bytes_key, bytes)
  redis.call('HINCRBY', pace, 'jobs:' .. class, 0 - jobs)
  redis.call('HINCRBY', pace, 'cost:' .. class, 0 - cost)
end
local function add_to(totals, name, inputs, bytes)
  local total = totals[name] or {jobs = 0, inputs = 0, bytes = 0}
  total.jobs, total.inputs, total.bytes = total.jobs + 1, total.inputs + inputs, total.bytes + bytes
  totals[name] = total
end
"""
)

# Delivers waiting jobs of the first encoder that has any whose turn it is. Its classes of callers
# share by deficit round robin: each has a credit in units of cost, which lasts until it has no job
# left, and grows by its weight. No more is delivered than takes the time of a batch.
# KEYS for each encoder: credits, pace, streams
# ARGV worker, max inputs, max bytes, quantum, ms of a batch, cost of what it has already; for each
#   encoder: streams, patience ms
# Returns now, the number of the encoder, the weight of the callers that have jobs of it, and for
#   each job {number of its stream, entry, fields}.
TAKE: Final = (
    NOW
    + FIELD
    + FIRST_WAITING
    + """
local free, room, quantum = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local batch_ms, cost_left = tonumber(ARGV[5]), 0
local taken = {}
-- Reads entries of about this cost; returns how much they cost, 0 if none waits.
local function read(key, number, budget)
  local total, max_cost, max_inputs = 0, 0, 0
  repeat
    local count = 1
    if max_cost > 0 then
      count = math.min((budget - total) / max_cost, free / max_inputs)
      count = math.max(1, math.floor(count))
    end
    local reply = redis.pcall(
      'XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', count, 'STREAMS', key, '>')
    -- An error if the stream no longer exists.
    if not reply or reply.err then break end
    local entries = reply[1][2]
    for i = 1, #entries do
      local inputs = math.max(1, tonumber(field(entries[i], 'n')))
      local cost = math.max(1, tonumber(field(entries[i], 'c')))
      total, free = total + cost, free - inputs
      max_cost, max_inputs = math.max(max_cost, cost), math.max(max_inputs, inputs)
      room = room - tonumber(field(entries[i], 's'))
      taken[#taken + 1] = {number, entries[i][1], entries[i][2]}
    end
    if #entries < count then break end
  until total >= budget or free <= 0 or room <= 0
  cost_left = cost_left - total
  return total
end
local function read_fairly(credits, weights, first, classes)
  local credit = redis.call('HGETALL', credits)
  local saved = {next = 0}
  for i = 1, #credit, 2 do saved[credit[i]] = tonumber(credit[i + 1]) end
  -- A class whose turn was cut short by the end of a batch goes on with what it has left.
  local number, idle, goes_on = saved.next % classes, 0, saved.goes_on == 1
  while free > 0 and room > 0 and cost_left > 0 and idle < classes do
    local name = tostring(number)
    local budget = saved[name] or 0
    if not goes_on then
      budget = budget + quantum * math.max(1, tonumber(weights[number + 1] or '1'))
    end
    local cost = 0
    if budget > 0 then
      cost = read(KEYS[first + number], first + number, math.min(budget, cost_left))
    end
    if budget > 0 and cost == 0 then
      idle, saved[name] = idle + 1, 0
    else
      idle, saved[name] = 0, budget - cost
    end
    goes_on = cost > 0 and budget > cost and (free <= 0 or room <= 0 or cost_left <= 0)
    if not goes_on then number = (number + 1) % classes end
  end
  if #taken > 0 then
    saved.next, saved.goes_on = number, goes_on and 1 or 0
    local words = {}
    for name, value in pairs(saved) do words[#words + 1] = name; words[#words + 1] = value end
    redis.call('HSET', credits, unpack(words))
  end
end
local key, argument, weight = 1, 7, 0
while argument < #ARGV do
  local streams, patience = tonumber(ARGV[argument]), tonumber(ARGV[argument + 1])
  local due = patience == 0
  for i = key + 2, key + 1 + streams do
    if not due and redis.call('EXISTS', KEYS[i]) == 1 then
      local first = first_waiting(KEYS[i])
      due = first and age(first) >= patience
    end
  end
  if due then
    local names = {'ms'}
    for i = 0, streams - 1 do names[i + 2] = 'weight:' .. i end
    local weights = redis.call('HMGET', KEYS[key + 1], unpack(names))
    local ms = tonumber(table.remove(weights, 1) or '0')
    weight = 0
    for i = 1, streams do weight = weight + tonumber(weights[i] or '0') end
    cost_left = (ms > 0 and batch_ms / ms or 1 / 0) - tonumber(ARGV[6])
    if cost_left > 0 and streams == 1 then
      read(KEYS[key + 2], key + 2, cost_left)
    elseif cost_left > 0 then
      read_fairly(KEYS[key], weights, key + 2, streams)
    end
  end
  if #taken > 0 then return {now, (argument - 5) / 2, weight, taken} end
  key, argument = key + streams + 2, argument + 2
end
return {now, 0, 0, taken}
"""
)

# Records work on an encoder's jobs: the average time of a unit of cost, and the time in total.
_RECORD_WORK: Final = """
local function record_work(pace, work, cost)
  local ms = work / cost
  local average = tonumber(redis.call('HGET', pace, 'ms') or ms)
  -- Slow batches are often the first ones of a model, or were disturbed; those that took long tell
  -- more than short ones.
  local weight = ms < average and 0.5 or math.max(0.2, work / (work + 500))
  redis.call('HSET', pace, 'ms', average + weight * (ms - average))
  redis.call('HINCRBY', pace, 'work', math.floor(work + 0.5))
end
"""

# KEYS pace, catalog
# ARGV ms of work, its cost, encoder, seconds for which it is remembered without streams
RECORD_WORK: Final = (
    _RECORD_WORK
    + """
record_work(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]))
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)

# Answers jobs of one stream to one API process, each unless another worker has it.
# KEYS stream, bytes, replies, apis, pace, callers, payloads
# ARGV api, ms after which an api is dead, class; for each job: entry, reply, size, cost, inputs,
#   caller, ms of work, number of its payload or 0
# Returns for each whether it was answered.
ANSWER: Final = (
    NOW
    + RELEASE
    + _RECORD_WORK
    + """
local results, acknowledged, replies, payloads, totals = {}, {}, {}, {}, {}
local cost, work, worked_cost = 0, 0, 0
for i = 4, #ARGV, 8 do
  local sent = redis.call('XACK', KEYS[1], 'workers', ARGV[i])
  results[#results + 1] = sent
  if sent == 1 then
    acknowledged[#acknowledged + 1] = ARGV[i]
    replies[#replies + 1] = ARGV[i + 1]
    cost = cost + ARGV[i + 3]
    add_to(totals, ARGV[i + 5], ARGV[i + 4], ARGV[i + 2])
    if tonumber(ARGV[i + 6]) > 0 then
      work, worked_cost = work + ARGV[i + 6], worked_cost + ARGV[i + 3]
    end
    if ARGV[i + 7] ~= '0' then payloads[#payloads + 1] = KEYS[6 + ARGV[i + 7]] end
  end
end
if #acknowledged == 0 then return results end
redis.call('XDEL', KEYS[1], unpack(acknowledged))
release(KEYS[2], KEYS[5], KEYS[6], ARGV[3], cost, totals)
if worked_cost > 0 then record_work(KEYS[5], work, worked_cost) end
if #payloads > 0 then redis.call('DEL', unpack(payloads)) end
local heartbeat = ARGV[1] ~= '' and redis.call('ZSCORE', KEYS[4], ARGV[1])
if heartbeat and tonumber(heartbeat) > now - ARGV[2] then
  redis.call('RPUSH', KEYS[3], unpack(replies))
end
return results
"""
)

# The jobs of a stream that is not empty.
# KEYS stream · Returns jobs, those that a worker has, and for how long the first one has waited.
BACKLOG: Final = (
    NOW
    + FIRST_WAITING
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
    FIELD
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
