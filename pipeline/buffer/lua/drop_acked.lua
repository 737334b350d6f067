-- Remove the oldest records of acknowledged chunks, if the oldest is still the one that was read.
-- KEYS: acked, scratch   ARGV: oldest record, count
redis.call('DEL', KEYS[2])
if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[1] then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - ARGV[2])
return 1
