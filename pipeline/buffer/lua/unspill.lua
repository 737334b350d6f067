-- Acknowledge a spilled chunk whose rows stand in ClickHouse; 0 when that was done before.
-- needs: now, guard, stamp
-- What was stored of it before its items vanished was counted as lost when the file was written.
-- KEYS: spilled, dirty, ledger, acked, set_aside, scratch   ARGV: field, rows, stored, dead_lettered, record, minute ...
redis.call('DEL', KEYS[6])
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'hash', KEYS[4], 'list', KEYS[5], 'hash') or wrong_ledger(KEYS[3])
if wrong then return wrong end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local touch = stamp(KEYS[3])
for i = 6, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], touch) end
redis.call('HINCRBY', KEYS[3], 'spilled', -ARGV[2])
redis.call('HINCRBY', KEYS[3], 'stored', ARGV[3])
redis.call('HINCRBY', KEYS[3], 'dead_lettered', ARGV[4])
local saved = ARGV[3] + ARGV[4] - ARGV[2]
if saved > 0 then
  redis.call('HINCRBY', KEYS[3], 'lost', -saved)
  local at, kept, lost, text = string.match(redis.call('HGET', KEYS[5], ARGV[1]) or '', '^(%d+) (%d+) (%d+) (.*)$')
  if at and kept == '0' and tonumber(lost) <= saved then redis.call('HDEL', KEYS[5], ARGV[1])
  elseif at then redis.call('HSET', KEYS[5], ARGV[1], table.concat({at, kept, math.max(0, lost - saved), text}, ' ')) end
end
redis.call('LPUSH', KEYS[4], ARGV[5] .. ' ' .. as_text(now_ms()))
return 1
