-- Removes members of a sorted set of times that are older than a time, a bounded number at once.
-- KEYS: sorted set   ARGV: time in seconds, most to remove   Returns how many were removed.
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
if #old > 0 then
    redis.call('ZREM', KEYS[1], unpack(old))
end
return #old
