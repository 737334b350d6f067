-- Turn the whole buffer into one segment. O(1). Returns {rows, sealed_at_ms}; rows is 0 when there was nothing, and -1
-- when Redis's clock and the caller's disagree by more than is allowed: then sealed_at_ms is Redis's clock.
-- Chunks of large items have fewer rows, so that no drainer has to hold gigabytes. The newest items are sampled (4 µs),
-- so many that a single huge one does not cut the others to pieces. The number is divided by 2 and 5 only, so that it
-- still divides what the full one divides (on a cluster a million rows go to one shard).
-- needs: segment
-- KEYS: buffer, segment, segments, sealed, ledger, scratch
-- ARGV: name, chunk_rows, chunk_bytes, caller's clock in ms, allowed difference in ms, 1 when the caller's clock is right
redis.call('DEL', KEYS[6])
local wrong = wrong_type(KEYS[1], 'list', KEYS[3], 'zset', KEYS[4], 'hash') or wrong_ledger(KEYS[5])
if wrong then return wrong end
local rows = redis.call('LLEN', KEYS[1])
if rows == 0 then return {0, 0} end
local key = KEYS[2]
if redis.call('EXISTS', key, key .. ':meta', key .. ':leases') > 0 then
  return redis.error_reply('segment name is taken')
end
local now = now_ms()
local sealed_at = now
if math.abs(now - ARGV[4]) > tonumber(ARGV[5]) then
  if ARGV[6] ~= '1' then return {-1, as_text(now)} end
  sealed_at = tonumber(ARGV[4])
end
local chunk_rows = tonumber(ARGV[2])
local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 1000)
local huge = type(bytes) == 'number' and bytes / rows > 65536
if type(bytes) == 'number' then
  while chunk_rows > 1 and bytes / rows * chunk_rows > tonumber(ARGV[3]) do
    if chunk_rows % 2 == 0 then chunk_rows = chunk_rows / 2
    elseif chunk_rows % 5 == 0 then chunk_rows = chunk_rows / 5
    else chunk_rows = math.floor(chunk_rows / 2) end
  end
end
redis.call('RENAME', KEYS[1], key)
redis.call('PERSIST', key)
write_segment(key, ARGV[1], KEYS[3], KEYS[4], {
  rows = rows, chunk_rows = chunk_rows, sealed_at = sealed_at, written_at = now,
  run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'),
  head = huge and '-' or fingerprint(key, 0), tail = huge and '-' or fingerprint(key, -1),
  freed = 0, next = 0, trimmed = 0, done = {}})
redis.call('HINCRBY', KEYS[5], 'sealed', rows)
return {rows, as_text(sealed_at)}
