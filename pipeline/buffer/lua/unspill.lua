-- Acknowledge a spilled chunk whose rows stand in ClickHouse; 0 when that was done before.
-- needs: now, guard, stamp
-- KEYS: spilled, dirty, ledger, acked, scratch   ARGV: field, rows, stored, dead_lettered, record, minute ...
redis.call('DEL', KEYS[5])
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'hash', KEYS[4], 'list') or wrong_ledger(KEYS[3])
if wrong then return wrong end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local touch = stamp(KEYS[3])
for i = 6, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], touch) end
redis.call('HINCRBY', KEYS[3], 'spilled', -ARGV[2])
redis.call('HINCRBY', KEYS[3], 'stored', ARGV[3])
redis.call('HINCRBY', KEYS[3], 'dead_lettered', ARGV[4])
redis.call('LPUSH', KEYS[4], ARGV[5] .. ' ' .. as_text(now_ms()))
return 1
