-- Gives the room back that dequeue took; never below nothing.
-- KEYS: resource (hash)   Returns how many run now.
local running = tonumber(redis.call('HGET', KEYS[1], 'running') or '0') or 0
if running <= 0 then
    redis.call('HSET', KEYS[1], 'running', 0)
    return 0
end
return redis.call('HINCRBY', KEYS[1], 'running', -1)
