-- Turn the whole buffer into one segment. O(1). Returns {rows, sealed_at_ms}; rows is 0 when there was nothing.
-- Chunks of large items have fewer rows, so that no drainer has to hold gigabytes. The newest items are sampled (4 µs),
-- so many that a single huge one does not cut the others to pieces. The number is divided by 2 and 5 only, so that it
-- still divides what the full one divides (on a cluster a million rows go to one shard).
-- needs: now
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
local now = now_ms()
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[3], 'rows', rows, 'chunk_rows', chunk_rows, 'sealed_at', as_text(now),
  'run', string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'))
redis.call('ZADD', KEYS[4], now, ARGV[1])
redis.call('HINCRBY', KEYS[5], 'sealed', rows)
return {rows, as_text(now)}
