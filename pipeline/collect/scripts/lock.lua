-- Takes a lock for a limited time, with a fencing number that grows with every holder.
-- KEYS: lock, fence (counter)   ARGV: holder, TTL in milliseconds
-- Returns the fencing number, or 0 when another one holds the lock. The code that protects a resource refuses a smaller
-- number than the greatest it has seen, so that a holder that slept through its TTL does no harm.
if not string.find(ARGV[2] or '', '^%d+$') or #ARGV[2] > 15 or tonumber(ARGV[2]) < 1 then
    return redis.error_reply('ERR the TTL must be at least one millisecond, a whole number of up to 15 digits')
end
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
    return 0
end
local number = held and redis.call('GET', KEYS[2]) or redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return tonumber(number)
