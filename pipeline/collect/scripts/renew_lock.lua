-- Prolongs a lock, if it is still the caller's.
-- KEYS: lock   ARGV: holder, TTL in milliseconds   Returns 1, or 0 when the lock is lost.
-- The document's EXPIRE prolongs any lock that stands there by then.
-- With nothing left Redis would delete the lock.
if not string.find(ARGV[2] or '', '^%d+$') or #ARGV[2] > 15 or tonumber(ARGV[2]) < 1 then
    return redis.error_reply('ERR the TTL must be at least one millisecond, a whole number of up to 15 digits')
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
