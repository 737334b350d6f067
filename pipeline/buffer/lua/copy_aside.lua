-- Copy some items of a leased chunk to the list that keeps it aside; the length of that list, -1 when the lease is lost.
-- KEYS: segment, leases, aside, scratch   ARGV: chunk, token, first index, last index, 1 to start afresh
redis.call('DEL', KEYS[4])
local lease = redis.call('HGET', KEYS[2], ARGV[1])
if string.match(lease or '', '^(%S+) %d+ %d+$') ~= ARGV[2] then return -1 end
if ARGV[5] == '1' then redis.call('DEL', KEYS[3]) end
local items = redis.call('LRANGE', KEYS[1], ARGV[3], ARGV[4])
if #items == 0 then return redis.call('LLEN', KEYS[3]) end
return redis.call('RPUSH', KEYS[3], unpack(items))
