-- Take a notification that arrived out of what is pending, and note how its group stands; 0 when it was replaced.
-- KEYS: pending, told, in-flight, scratch
-- ARGV: group, the notification as frozen or '', how the group stands then or '', memory in s, transition ids ...
redis.call('DEL', KEYS[4])
for i = 1, 3 do redis.call('HLEN', KEYS[i]) end -- an error now, before anything is written, when one is no hash
if ARGV[2] ~= '' then
  if redis.call('HGET', KEYS[3], ARGV[1]) ~= ARGV[2] then return 0 end
  redis.call('HDEL', KEYS[3], ARGV[1])
end
for i = 5, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return 1
