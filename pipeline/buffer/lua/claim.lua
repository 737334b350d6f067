-- Lease one chunk: one whose lease ran out, else the next that was never leased; nil when there is none.
-- {"damaged", segment} when the keys of a segment have to be mended first.
-- needs: segment
-- KEYS: segments, sealed, scratch   ARGV: prefix of segment keys, token, lease_ms, longest lease in ms
redis.call('DEL', KEYS[3])
local wrong = wrong_type(KEYS[1], 'zset', KEYS[2], 'hash')
if wrong then return wrong end
local now = now_ms()

-- lapses(key, chunk, lapsed): how often holders of the chunk died before they began to insert it, this time counted.
local function lapses(key, chunk, lapsed)
  local field = 'lapses:' .. chunk
  local known = redis.call('HGET', key .. ':meta', field)
  if known == 'begun' then return 0 end
  local count = (whole(known) or 0) + (lapsed and 1 or 0)
  if lapsed then redis.call('HSET', key .. ':meta', field, count) end
  return count
end

local function take(name, facts, chunk, attempts, lapsed)
  local key = ARGV[1] .. name
  local lease = ARGV[2] .. '#' .. attempts .. ' ' .. as_text(now + ARGV[3]) .. ' ' .. attempts
  redis.call('HSET', key .. ':leases', chunk, lease)
  local same_server = 0
  if facts.run == string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') then same_server = 1 end
  return {name, chunk, facts.rows, facts.chunk_rows, as_text(facts.sealed_at), attempts, same_server,
    lapses(key, chunk, lapsed)}
end

-- attempts(lease): how often a chunk was tried, when it has no holder, and whether its last holder died. A lease further ahead than the longest was taken
-- while Redis's clock was ahead; what is not a lease was put there by another program.
local function attempts(lease)
  local expires, tried = string.match(lease, '^%S+ (%d+) (%d+)$')
  if not expires then return 1, false end
  if tonumber(expires) <= now or tonumber(expires) > now + ARGV[4] then
    return math.min(tonumber(tried), 1000000), tonumber(expires) > 0
  end
end

for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  local key = ARGV[1] .. name
  local facts = read_segment(key, name, KEYS[2])
  if not facts then return {'damaged', name} end
  local leases = redis.call('HGETALL', key .. ':leases')
  for i = 1, #leases, 2 do
    local chunk = whole(leases[i])
    if not chunk or chunk < facts.trimmed or chunk >= facts.next then return {'damaged', name} end
    local tried, lapsed
    if not facts.done[chunk] then tried, lapsed = attempts(leases[i + 1]) end
    if tried then return take(name, facts, chunk, tried + 1, lapsed) end
  end
  if facts.next < chunks_of(facts) then
    redis.call('HSET', key .. ':meta', 'next', facts.next + 1)
    return take(name, facts, facts.next, 1, false)
  end
end
return false
