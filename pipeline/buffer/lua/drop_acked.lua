-- Remove the oldest records of acknowledged chunks, if the oldest is still the one that was read.
-- needs: guard
-- KEYS: acked, scratch   ARGV: oldest record, count
redis.call('DEL', KEYS[2])
local wrong = wrong_type(KEYS[1], 'list')
if wrong then return wrong end
if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[1] then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - ARGV[2])
return 1
