-- Removes members of a sorted set of times that are older than a time, a bounded number at once.
-- KEYS: sorted set   ARGV: time in seconds, most to remove   Returns how many were removed.
local old = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1])
local most = tonumber(ARGV[2])
if most == nil then
    return redis.error_reply('ERR the most to remove must be a number')
end
local count = math.min(old, most)
if count < 1 then
    return 0
end
return redis.call('ZREMRANGEBYRANK', KEYS[1], 0, count - 1)
