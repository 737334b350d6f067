-- Moves the oldest notices of the oldest commit from its list to the outboxes; the last piece ends the commit.
-- needs: keys
-- KEYS: commits, scratch, notices of the commit, table outbox, redis outbox, pending of each channel ...
-- ARGV: the commit, how many notices, channel memory in s
-- Answers 1 unless the commit is not the oldest one any more.
redis.call('DEL', KEYS[2])
local sound = is_a(KEYS[3], 'list') and is_a(KEYS[4], 'list') and is_a(KEYS[5], 'list')
for channel = 6, #KEYS do sound = sound and is_a(KEYS[channel], 'hash') end
if not sound then return redis.error_reply('WRONGTYPE a key of the alerts') end
if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[1] then return 0 end
local piece = redis.call('LRANGE', KEYS[3], 0, ARGV[2] * 4 - 1)
for i = 1, #piece - 3, 4 do
  redis.call('RPUSH', KEYS[4], piece[i + 1])
  redis.call('RPUSH', KEYS[5], piece[i + 2])
  for channel = 6, #KEYS do redis.call('HSETNX', KEYS[channel], piece[i], piece[i + 3]) end
end
if #piece > 0 then
  for channel = 6, #KEYS do redis.call('EXPIRE', KEYS[channel], ARGV[3]) end
end
redis.call('LTRIM', KEYS[3], #piece, -1)
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('LPOP', KEYS[1]) end
return 1
