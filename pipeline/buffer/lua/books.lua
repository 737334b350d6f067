-- One consistent look at the books of a buffer; read-only.
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
  redis.call('HMGET', KEYS[3], 'sealed', 'stored', 'dead_lettered', 'spilled', 'dropped', 'lost', 'set_aside')}
