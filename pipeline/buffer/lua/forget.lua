-- Forget minutes that were not touched again since their counters were read.
-- KEYS: dirty, scratch   ARGV: minute, counter, ...
redis.call('DEL', KEYS[2])
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
