"""The scripts that change the buffer's keys, each atomic and each short enough not to hold Redis up.

Every script begins by deleting a key that never exists: a write that Redis allows when
memory is full, after which it lets the rest of the script write too. Without it a full
Redis could not be drained, and so would stay full.

A touched minute is stamped with a number that never comes twice. A counter for each minute would start
again once the minute was forgotten, and a worker that had seen the old 1 would forget the new one; a counter
for all of them is rewound by a power cut. So the stamp is the time in microseconds, or one more than the last.
"""

_STAMP = """
local function stamp(ledger)
  local time = redis.call('TIME')
  local last = tonumber(redis.call('HGET', ledger, 'touches') or 0)
  local touch = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('HSET', ledger, 'touches', touch)
  return touch
end
"""
"""What TOUCH, ACK and UNSPILL begin with."""

SEAL = """
-- KEYS: buffer, segment, meta, segments, ledger, scratch   ARGV: name, chunk_rows, chunk_bytes
redis.call('DEL', KEYS[6])
local rows = redis.call('LLEN', KEYS[1])
if rows == 0 then return {0, 0} end
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then
  return redis.error_reply('segment name is taken')
end
local chunk_rows = tonumber(ARGV[2])
local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 1000)
if type(bytes) == 'number' then
  while chunk_rows > 1 and bytes / rows * chunk_rows > tonumber(ARGV[3]) do
    if chunk_rows % 2 == 0 then chunk_rows = chunk_rows / 2
    elseif chunk_rows % 5 == 0 then chunk_rows = chunk_rows / 5
    else chunk_rows = math.floor(chunk_rows / 2) end
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[3], 'rows', rows, 'chunk_rows', chunk_rows, 'sealed_at', string.format('%.0f', now),
  'run', string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'))
redis.call('ZADD', KEYS[4], now, ARGV[1])
redis.call('HINCRBY', KEYS[5], 'sealed', rows)
return {rows, string.format('%.0f', now)}
"""
"""Turn the whole buffer into one segment. O(1); returns {rows, sealed_at_ms}, rows 0 when there was nothing.

Chunks of large items have fewer rows, so that no drainer has to hold gigabytes. How large they are the newest tell, so
many (4 µs) that a single huge one does not cut the others to pieces. The number is divided by 2 and 5 only, so that it
still divides what the full one divides (on a cluster a million rows go to one shard)."""

CLAIM = """
-- KEYS: segments, scratch   ARGV: prefix of segment keys, token, lease_ms
redis.call('DEL', KEYS[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function take(name, chunk, attempts)
  local key = ARGV[1] .. name
  local meta = redis.call('HMGET', key .. ':meta', 'rows', 'chunk_rows', 'sealed_at', 'run')
  local lease = ARGV[2] .. '#' .. attempts .. ' ' .. string.format('%.0f', now + ARGV[3]) .. ' ' .. attempts
  redis.call('HSET', key .. ':leases', chunk, lease)
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local first_run = 0
  if meta[4] == run then first_run = 1 end
  return {name, chunk, meta[1], meta[2], meta[3], attempts, first_run}
end
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  local key = ARGV[1] .. name
  local leases = redis.call('HGETALL', key .. ':leases')
  for i = 1, #leases, 2 do
    local expires, attempts = string.match(leases[i + 1], '^%S+ (%d+) (%d+)$')
    if expires and tonumber(expires) <= now then
      return take(name, tonumber(leases[i]), attempts + 1)
    end
  end
  local meta = redis.call('HMGET', key .. ':meta', 'rows', 'chunk_rows', 'next')
  local next_chunk = tonumber(meta[3] or 0)
  if meta[1] and next_chunk * meta[2] < tonumber(meta[1]) then
    redis.call('HSET', key .. ':meta', 'next', next_chunk + 1)
    return take(name, next_chunk, 1)
  end
end
return false
"""
"""Lease one chunk: one whose lease ran out, else the next that nobody had; nil when there is none."""

RENEW = """
-- KEYS: leases, scratch   ARGV: chunk, token, lease_ms (0 gives the chunk back)
redis.call('DEL', KEYS[2])
local lease = redis.call('HGET', KEYS[1], ARGV[1])
local token, attempts = string.match(lease or '', '^(%S+) %d+ (%d+)$')
if token ~= ARGV[2] then return 0 end
local time = redis.call('TIME')
local expires = 0
if ARGV[3] ~= '0' then expires = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3] end
redis.call('HSET', KEYS[1], ARGV[1], token .. ' ' .. string.format('%.0f', expires) .. ' ' .. attempts)
return 1
"""
"""Prolong a lease, or end it at once; 0 when it is no longer ours."""

TOUCH = (
    _STAMP
    + """
-- KEYS: dirty, ledger, scratch   ARGV: minute ...
redis.call('DEL', KEYS[3])
local touch = stamp(KEYS[2])
for i = 1, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], touch) end
return 1
"""
)
"""Note touched minutes ahead of an ack that has too many of them; noted twice is harmless."""

_FINISH = """
local meta = redis.call('HMGET', KEYS[3], 'rows', 'chunk_rows', 'trimmed')
local rows, chunk_rows, trimmed = tonumber(meta[1]), tonumber(meta[2]), tonumber(meta[3] or 0)
redis.call('HINCRBY', KEYS[3], 'acked_rows', done)
local before = trimmed
while redis.call('HGET', KEYS[4], trimmed) == 'done' do
  redis.call('HDEL', KEYS[4], trimmed)
  trimmed = trimmed + 1
end
if trimmed * chunk_rows >= rows then
  redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
  redis.call('ZREM', KEYS[1], ARGV[1])
elseif trimmed > before then
  redis.call('HSET', KEYS[3], 'trimmed', trimmed)
end
return 1
"""
"""The end of ACK and SPILL: count ``done`` rows of the segment, and note what is finished at its old end for TRIM."""

TRIM = """
-- KEYS: segment, meta, scratch   ARGV: rows at most
redis.call('DEL', KEYS[3])
local meta = redis.call('HMGET', KEYS[2], 'rows', 'chunk_rows', 'trimmed')
if not meta[1] then return 0 end
local excess = redis.call('LLEN', KEYS[1]) - (meta[1] - (meta[3] or 0) * meta[2])
if excess <= 0 then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - math.min(excess, tonumber(ARGV[1])))
return math.max(0, excess - ARGV[1])
"""
"""Free some of what is finished at a segment's old end; how many rows are left of it. 100,000 at once took 4 ms."""

ACK = (
    _STAMP
    + """
-- KEYS: segments, segment, meta, leases, dirty, ledger, acked, scratch
-- ARGV: name, chunk, token, stored, dead_lettered, record, verified (0 or 1), minute ...
redis.call('DEL', KEYS[8])
local lease = redis.call('HGET', KEYS[4], ARGV[2])
local token, attempts = string.match(lease or '', '^(%S+) %d+ (%d+)$')
if token ~= ARGV[3] then return 0 end
if ARGV[7] == '0' then
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  if redis.call('HGET', KEYS[3], 'run') ~= run then
    -- A power cut may have made Redis forget that somebody else tried it since: given back, to be read back.
    redis.call('HSET', KEYS[4], ARGV[2], token .. ' 0 ' .. attempts)
    return 0
  end
end
redis.call('HSET', KEYS[4], ARGV[2], 'done')
local touch = stamp(KEYS[6])
for i = 8, #ARGV do redis.call('HSET', KEYS[5], ARGV[i], touch) end
redis.call('HINCRBY', KEYS[6], 'stored', ARGV[4])
redis.call('HINCRBY', KEYS[6], 'dead_lettered', ARGV[5])
local time = redis.call('TIME')
redis.call('LPUSH', KEYS[7], ARGV[6] .. ' ' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
local done = ARGV[4] + ARGV[5]
"""
    + _FINISH
)
"""Acknowledge a chunk if its lease is still ours: count it, note the minutes it touched, and what may be trimmed."""

SPILL = (
    """
-- KEYS: segments, segment, meta, leases, spilled, ledger, unused, scratch   ARGV: name, chunk, token, rows
redis.call('DEL', KEYS[8])
local lease = redis.call('HGET', KEYS[4], ARGV[2])
if string.match(lease or '', '^(%S+) %d+ %d+$') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[4], ARGV[2], 'done')
redis.call('HSET', KEYS[5], ARGV[1] .. ':' .. ARGV[2], ARGV[4])
redis.call('HINCRBY', KEYS[6], 'spilled', ARGV[4])
local done = ARGV[4]
"""
    + _FINISH
)
"""Let go of a chunk that now lies in a file, if its lease is still ours; from here on the file is what counts."""

UNSPILL = (
    _STAMP
    + """
-- KEYS: spilled, dirty, ledger, acked, scratch   ARGV: field, stored, dead_lettered, record, minute ...
redis.call('DEL', KEYS[5])
local rows = redis.call('HGET', KEYS[1], ARGV[1])
if not rows then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
local touch = stamp(KEYS[3])
for i = 5, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], touch) end
redis.call('HINCRBY', KEYS[3], 'spilled', -rows)
redis.call('HINCRBY', KEYS[3], 'stored', ARGV[2])
redis.call('HINCRBY', KEYS[3], 'dead_lettered', ARGV[3])
local time = redis.call('TIME')
redis.call('LPUSH', KEYS[4], ARGV[4] .. ' ' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return 1
"""
)
"""Acknowledge a spilled chunk whose rows stand in ClickHouse; 0 when that was done before."""

DROP_OLDEST = """
-- KEYS: buffer, ledger, scratch   ARGV: rows to keep, rows to drop at most
redis.call('DEL', KEYS[3])
local drop = math.min(redis.call('LLEN', KEYS[1]) - ARGV[1], tonumber(ARGV[2]))
if drop <= 0 then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - drop)
redis.call('HINCRBY', KEYS[2], 'sealed', drop)
redis.call('HINCRBY', KEYS[2], 'dropped', drop)
return drop
"""
"""Drop the oldest items that wait, counted."""

FORGET = """
-- KEYS: dirty, scratch   ARGV: minute, counter, ...
redis.call('DEL', KEYS[2])
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
"""
"""Forget minutes that were not touched again since their counters were read."""

DROP_ACKED = """
-- KEYS: acked, scratch   ARGV: oldest record, count
redis.call('DEL', KEYS[2])
if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[1] then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - ARGV[2])
return 1
"""
"""Remove the oldest records of acknowledged chunks, if the oldest is still the one that was read."""

MARK = """
-- KEYS: marks, buffer   ARGV: name, mark, payload
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
if #ARGV[3] > 0 then redis.call('LPUSH', KEYS[2], ARGV[3]) end
return 1
"""
"""Mark a dead letter once, pushing its payload in the same step. A producer's write: refused when memory is full."""

BOOKS = """
-- KEYS: buffer, segments, ledger   ARGV: prefix of segment keys
local rows, acked, count = 0, 0, 0
local oldest = 0
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local meta = redis.call('HMGET', ARGV[1] .. name .. ':meta', 'rows', 'acked_rows', 'sealed_at')
  rows = rows + (meta[1] or 0)
  acked = acked + (meta[2] or 0)
  count = count + 1
  if oldest == 0 then oldest = meta[3] or 0 end
end
return {redis.call('LLEN', KEYS[1]), rows - acked, count, oldest,
  redis.call('HMGET', KEYS[3], 'sealed', 'stored', 'dead_lettered', 'spilled', 'dropped')}
"""
"""One consistent look at the books of a buffer; read-only."""
