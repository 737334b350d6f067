-- finish(...): a chunk is done. Counts its rows in the segment, and notes what is finished at the old end for trim.lua.
local function finish(name, segments, segment, meta_key, leases, done)
  local meta = redis.call('HMGET', meta_key, 'rows', 'chunk_rows', 'trimmed')
  local rows, chunk_rows, trimmed = tonumber(meta[1]), tonumber(meta[2]), tonumber(meta[3] or 0)
  redis.call('HINCRBY', meta_key, 'acked_rows', done)
  local before = trimmed
  while redis.call('HGET', leases, trimmed) == 'done' do
    redis.call('HDEL', leases, trimmed)
    trimmed = trimmed + 1
  end
  if trimmed * chunk_rows >= rows then
    redis.call('UNLINK', segment, meta_key, leases)
    redis.call('ZREM', segments, name)
  elseif trimmed > before then
    redis.call('HSET', meta_key, 'trimmed', trimmed)
  end
end
