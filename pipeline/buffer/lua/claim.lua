-- Lease one chunk: one whose lease ran out, else the next that was never leased; nil when there is none.
-- needs: now
-- KEYS: segments, scratch   ARGV: prefix of segment keys, token, lease_ms
redis.call('DEL', KEYS[2])
local now = now_ms()
local function take(name, chunk, attempts)
  local key = ARGV[1] .. name
  local meta = redis.call('HMGET', key .. ':meta', 'rows', 'chunk_rows', 'sealed_at', 'run')
  local lease = ARGV[2] .. '#' .. attempts .. ' ' .. as_text(now + ARGV[3]) .. ' ' .. attempts
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
