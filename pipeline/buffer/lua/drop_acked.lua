-- Remove the oldest records of acknowledged chunks, if the oldest is still the one that was read.
-- needs: guard
-- What is no record goes to a list of its own, so that nothing of it is destroyed.
-- KEYS: acked, scratch, list for what is no record   ARGV: oldest record, count, places of what is no record (0: the oldest)
redis.call('DEL', KEYS[2])
local wrong = wrong_type(KEYS[1], 'list') or wrong_type(KEYS[3], 'list')
if wrong then return wrong end
if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[1] then return 0 end
for i = 3, #ARGV do redis.call('LPUSH', KEYS[3], redis.call('LINDEX', KEYS[1], -1 - ARGV[i])) end
redis.call('LTRIM', KEYS[1], 0, -1 - ARGV[2])
return 1
