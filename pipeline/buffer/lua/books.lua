-- One consistent look at the books of a buffer; read-only.
-- needs: segment
-- KEYS: buffer, segments, sealed, ledger   ARGV: prefix of segment keys
local wrong = wrong_type(KEYS[1], 'list', KEYS[2], 'zset', KEYS[3], 'hash') or wrong_ledger(KEYS[4])
if wrong then return wrong end
local in_flight, oldest = 0, 0
local names = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, name in ipairs(names) do
  local facts, damage = read_segment(ARGV[1] .. name, name, KEYS[3])
  if not facts then return damage end
  in_flight = in_flight + facts.rows - facts.acked_rows
  if oldest == 0 then oldest = facts.sealed_at end
end
return {redis.call('LLEN', KEYS[1]), in_flight, #names, as_text(oldest), redis.call('HMGET', KEYS[4], unpack(COUNTERS))}
