-- Takes a lock in the order in which it was asked for.
-- KEYS: lock, queue (list), waiting (sorted set: waiter to the time until which it waits)
-- ARGV: holder, TTL in milliseconds, now in milliseconds, patience in milliseconds
-- Returns 1 when the caller holds the lock now, else 0: ask again within the patience, or the place is lost.
-- With the document's LPOP a waiter that died blocks all waiters behind it for ever.
if not string.find(ARGV[2] or '', '^%d+$') or #ARGV[2] > 15 or tonumber(ARGV[2]) < 1 then
    return redis.error_reply('ERR the TTL must be at least one millisecond, a whole number of up to 15 digits')
end
if not (string.find(ARGV[3] or '', '^%d+$') and string.find(ARGV[4] or '', '^%d+$')) then
    return redis.error_reply('ERR now and patience must be whole numbers of milliseconds')
end
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 1
end
if not redis.call('LPOS', KEYS[2], ARGV[1]) then
    redis.call('RPUSH', KEYS[2], ARGV[1])
end
redis.call('ZADD', KEYS[3], ARGV[3] + ARGV[4], ARGV[1])
while true do
    local first = redis.call('LINDEX', KEYS[2], 0)
    if not first then
        break
    end
    local until_ms = redis.call('ZSCORE', KEYS[3], first)
    if until_ms and tonumber(until_ms) >= tonumber(ARGV[3]) then
        break
    end
    redis.call('LPOP', KEYS[2])
    redis.call('ZREM', KEYS[3], first)
end
if held or redis.call('LINDEX', KEYS[2], 0) ~= ARGV[1] then
    return 0
end
redis.call('LPOP', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
