"""The Lua scripts that add jobs to the streams, and take them out again.

`scripts` has the rules that they follow.
"""

from typing import Final

from stitchwork.queue.scripts import CALLERS, FIELD, FIRST_WAITING, NOW, RELEASE

# Creates the streams of an encoder, one for each class of callers.
# KEYS catalog, pace, streams · ARGV encoder, model, classes
CREATE_STREAMS: Final = """
redis.call('PERSIST', KEYS[2])
for i = 3, #KEYS do
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
# `c` and size `s` of its job, the wait `e` that was expected of it, its caller `u`, and the job `m`
# or the name `k` of the key that has it.
#
# A caller without jobs gets a class of its own while one is empty. Otherwise a small request of it
# goes to the class of those that have nothing else in the queue, and a large one to the class that
# costs least. Its further jobs stay together. What a request waits for is at most what its class
# has, and of each other class as much as that gets meanwhile.
#
# Of the jobs and bytes that are free, a caller may have seven times its weight as many: one alone
# 7 of 8, n callers 7 of 7n + 1 each, so that there is always room for another.
# KEYS bytes, apis, pace, callers, streams, payloads
# ARGV api, max jobs, max bytes, max wait ms, workers, capacity, streams, max cost of a small
#   request, requests; for each request: timeout ms, inputs, cost, jobs, caller, its weight, its max
#   inputs or 0, and 0 or, to try whether it would be admitted, the size of its jobs, which then are
#   left out; for each of its jobs: the job, inputs, cost, name of its payload or ''
# Returns for each request {'ok', class, entries}, {'no-stream'}, or {limit, inputs that fit, wait
# in ms}.
ADMIT: Final = (
    NOW
    + FIELD
    + FIRST_WAITING
    + CALLERS
    + """
local at = 9
local function take() at = at + 1; return ARGV[at] end
local function take_number() return tonumber(take()) end
local max_jobs, max_bytes, max_wait = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local workers, capacity = math.max(1, tonumber(ARGV[5])), tonumber(ARGV[6])
local classes, max_small = tonumber(ARGV[7]), tonumber(ARGV[8])
local results, payload, SHARE = {}, 4 + classes, 7
local sparse = classes > 2 and 1 or -1

local names = {'ms'}
for i = 0, classes - 1 do
  names[3 * i + 2], names[3 * i + 3], names[3 * i + 4] = 'jobs:' .. i, 'cost:' .. i, 'weight:' .. i
end
local fields = redis.call('HMGET', KEYS[3], unpack(names))
local pace, jobs, costs, weights, added = tonumber(fields[1]), {}, {}, {}, {}
local all_jobs = 0
for i = 0, classes - 1 do
  jobs[i], costs[i] = tonumber(fields[3 * i + 2] or '0'), tonumber(fields[3 * i + 3] or '0')
  weights[i] = tonumber(fields[3 * i + 4] or '0')
  added[i] = {jobs = 0, cost = 0, weight = 0}
  all_jobs = all_jobs + jobs[i]
end
local bytes, added_bytes = tonumber(redis.call('GET', KEYS[1]) or '0'), 0
local overdue = {}

local function class_of(caller, units)
  if classes == 1 then return 0 end
  if caller.class and caller.class ~= sparse then return caller.class end
  local best
  for i = classes - 1, 0, -1 do
    if i ~= sparse and (not best or costs[i] < costs[best]) then best = i end
  end
  local waits = jobs[best] > 0
  return sparse > 0 and not caller.class and waits and units <= max_small and sparse or best
end
-- The milliseconds until this many units more of a class are done, of whose weight `added` is not
-- counted yet.
local function finish(class, units, added)
  local own, total = costs[class] + units, costs[class] + units
  for i = 0, classes - 1 do
    if i ~= class then
      local share = math.max(1, weights[i]) / math.max(1, weights[class] + added)
      total = total + math.min(costs[i], own * share)
    end
  end
  return pace and total * pace / capacity or 0
end
-- How late the first waiting job of a class is.
local function lateness(class)
  if not overdue[class] then
    local first = first_waiting(KEYS[5 + class])
    overdue[class] = first and age(first) - tonumber(field(first, 'e') or '0') or 0
  end
  return overdue[class]
end
local function refusal(request, caller, class)
  if max_jobs == 0 then return nil end
  local inputs, parts, size = request.inputs, request.parts, request.size
  if request.max_inputs > 0 and caller.inputs + inputs > request.max_inputs then
    return {'max-inputs', request.max_inputs - caller.inputs, 0}
  end
  if all_jobs + parts > max_jobs then
    return {'max-jobs', (max_jobs - all_jobs) * inputs / parts, 0}
  end
  if bytes + size > max_bytes then
    return {'max-bytes', (max_bytes - bytes) * inputs / size, 0}
  end
  if classes > 1 then
    local share = SHARE * request.weight
    local fit = math.ceil((share * (max_jobs - all_jobs) - caller.jobs) / (1 + share))
    if parts > fit then return {'share-of-jobs', fit * inputs / parts, 0} end
    fit = math.ceil((share * (max_bytes - bytes) - caller.bytes) / (1 + share))
    if size > fit then return {'share-of-bytes', fit * inputs / size, 0} end
  end
  if lateness(class) > max_wait then return {'max-age', 0, 0} end
  local weight = caller.class == class and 0 or request.weight
  local wait = costs[class] > 0 and finish(class, 0, weight) or 0
  if wait > max_wait then return {'max-wait', 0, wait - max_wait} end
  -- All workers but one may be done while the last one still has the largest job.
  local function finish_own(units)
    return finish(class, units + (workers - 1) * math.min(units, request.largest), weight)
  end
  local limit, done = 0.9 * request.timeout, finish_own(request.units)
  if done > limit then
    local low, high = 0, 1
    for _ = 1, 20 do
      local middle = (low + high) / 2
      if finish_own(middle * request.units) <= limit then
        low = middle
      else
        high = middle
      end
    end
    local fit = low * inputs
    -- What the estimate rests on may be wrong, which only work can show.
    if all_jobs == 0 then fit = math.max(1, fit) end
    if inputs > 1 or fit < 1 then return {'too-long', fit, done - limit} end
  end
end
local function enter(name, caller, class, weight)
  if caller.class == class then return end
  if caller.class then
    weights[caller.class] = weights[caller.class] - caller.weight
    added[caller.class].weight = added[caller.class].weight - caller.weight
  end
  caller.class, caller.weight = class, weight
  weights[class] = weights[class] + weight
  added[class].weight = added[class].weight + weight
end

for _ = 1, tonumber(ARGV[9]) do
  local request = {timeout = take_number(), inputs = take_number(), units = take_number(),
    parts = take_number(), name = take(), weight = take_number(), max_inputs = take_number(),
    size = take_number()}
  local is_trial = request.size > 0
  local start, parts = at, is_trial and 0 or request.parts
  request.largest = is_trial and request.units / math.max(1, request.parts) or 0
  for i = 1, parts do
    request.size = request.size + #ARGV[start + 4 * i - 3]
    request.largest = math.max(request.largest, tonumber(ARGV[start + 4 * i - 1]))
  end
  local caller = read_caller(KEYS[4], request.name)
  local class = request.name == '' and 0 or class_of(caller, request.units)
  local result = redis.call('EXISTS', KEYS[5 + class]) == 0 and {'no-stream'}
  result = result or refusal(request, caller, class)
  if result then
    at = start + 4 * parts
    for i = 1, parts do
      if ARGV[start + 4 * i] ~= '' then payload = payload + 1 end
    end
    for i = 2, #result do result[i] = math.floor(math.max(0, result[i])) end
  elseif is_trial then
    result = {'ok', class}
  else
    if request.name ~= '' then
      enter(request.name, caller, class, request.weight)
      caller.jobs, caller.inputs = caller.jobs + parts, caller.inputs + request.inputs
      caller.bytes = caller.bytes + request.size
      write_caller(KEYS[4], request.name, caller)
    end
    result = {'ok', class}
    for _ = 1, parts do
      local job, items, cost, name = take(), take(), take_number(), take()
      local content = {'m', job}
      if name ~= '' then
        payload = payload + 1
        redis.call('SET', KEYS[payload], job)
        content = {'k', name}
      end
      costs[class] = costs[class] + cost
      result[#result + 1] = redis.call('XADD', KEYS[5 + class], '*', 'd', now + request.timeout,
        'n', items, 'c', cost, 's', #job, 'e', math.floor(finish(class, 0, 0)),
        'u', request.name, unpack(content))
    end
    all_jobs, bytes = all_jobs + parts, bytes + request.size
    added_bytes = added_bytes + request.size
    jobs[class] = jobs[class] + parts
    added[class].jobs = added[class].jobs + parts
    added[class].cost = added[class].cost + request.units
  end
  results[#results + 1] = result
end
local admitted = false
for i = 0, classes - 1 do
  for name, value in pairs(added[i]) do
    if value ~= 0 then
      redis.call('HINCRBY', KEYS[3], name .. ':' .. i, value)
      admitted = true
    end
  end
end
if admitted then
  if ARGV[1] ~= '' then redis.call('ZADD', KEYS[2], now, ARGV[1]) end
  redis.call('INCRBY', KEYS[1], added_bytes)
end
return results
"""
)

# Removes jobs of one stream, also those that a worker has: its answer is then ignored.
# KEYS stream, bytes, pace, callers, payloads · ARGV class, entries
# Returns for each 0 if it was gone, 1 if it waited, 2 if a worker had it.
CANCEL: Final = (
    FIELD
    + RELEASE
    + """
local results, cost, totals = {}, 0, {}
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  results[i - 1] = entry and 1 or 0
  if entry then
    results[i - 1] = 1 + redis.call('XACK', KEYS[1], 'workers', ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
    cost = cost + field(entry, 'c')
    add_to(totals, field(entry, 'u') or '', field(entry, 'n'), field(entry, 's'))
  end
end
if not next(totals) then return results end
release(KEYS[2], KEYS[3], KEYS[4], ARGV[1], cost, totals)
if #KEYS > 4 then redis.call('DEL', unpack(KEYS, 5)) end
return results
"""
)
