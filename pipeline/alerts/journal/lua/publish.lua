-- Pushes entries that do not stand among the newest ones yet, and publishes what is critical of them.
-- KEYS: alerts:performance, scratch   ARGV: length, channel, then (entry, message or '') ...
redis.call('DEL', KEYS[2])
local there = {}
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)) do there[entry] = true end
for i = 3, #ARGV, 2 do
  if not there[ARGV[i]] then
    redis.call('LPUSH', KEYS[1], ARGV[i])
    if ARGV[i + 1] ~= '' then redis.call('PUBLISH', ARGV[2], ARGV[i + 1]) end
  end
end
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
return 1
