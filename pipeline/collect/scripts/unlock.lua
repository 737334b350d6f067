-- Gives a lock back, if it is still the caller's.
-- KEYS: lock   ARGV: holder   Returns 1, or 0 when the lock was not the caller's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
