-- Acknowledge a spilled chunk whose rows stand in ClickHouse; 0 when that was done before.
-- needs: now, stamp
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
redis.call('LPUSH', KEYS[4], ARGV[4] .. ' ' .. as_text(now_ms()))
return 1
