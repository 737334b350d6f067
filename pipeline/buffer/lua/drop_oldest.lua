-- Drop the oldest items that wait, counted.
-- KEYS: buffer, ledger, scratch   ARGV: rows to keep, rows to drop at most
redis.call('DEL', KEYS[3])
local drop = math.min(redis.call('LLEN', KEYS[1]) - ARGV[1], tonumber(ARGV[2]))
if drop <= 0 then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - drop)
redis.call('HINCRBY', KEYS[2], 'sealed', drop)
redis.call('HINCRBY', KEYS[2], 'dropped', drop)
return drop
