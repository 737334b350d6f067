-- Forget minutes that were not touched again since their counters were read.
-- needs: guard
-- KEYS: dirty, scratch   ARGV: minute, counter, ...
redis.call('DEL', KEYS[2])
local wrong = wrong_type(KEYS[1], 'hash')
if wrong then return wrong end
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
