-- Drop the oldest items that wait, counted.
-- needs: guard
-- KEYS: buffer, ledger, scratch   ARGV: rows to keep, rows to drop at most
redis.call('DEL', KEYS[3])
local wrong = wrong_type(KEYS[1], 'list') or wrong_ledger(KEYS[2])
if wrong then return wrong end
local drop = math.min(redis.call('LLEN', KEYS[1]) - ARGV[1], tonumber(ARGV[2]))
if drop <= 0 then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - drop)
redis.call('HINCRBY', KEYS[2], 'sealed', drop)
redis.call('HINCRBY', KEYS[2], 'dropped', drop)
return drop
