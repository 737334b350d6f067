-- Replace a window's hash, unless it holds a newer revision; 1 when it was replaced.
-- KEYS: hash   ARGV: revision, expires_at_s, field, value ...
local held = tonumber(redis.call('HGET', KEYS[1], 'revision') or '')
if held and held > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIREAT', KEYS[1], ARGV[2])
return 1
