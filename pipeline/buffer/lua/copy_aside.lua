-- Copy some items of a leased chunk to the list that keeps it aside; the length of that list, -1 when the lease is lost.
-- needs: segment
-- KEYS: segment, aside, scratch   ARGV: chunk, token, first index, last index, 1 to start afresh
redis.call('DEL', KEYS[3])
local wrong = wrong_type(KEYS[1], 'list', KEYS[1] .. ':leases', 'hash')
if wrong then return wrong end
if not held_by(KEYS[1] .. ':leases', ARGV[1], ARGV[2]) then return -1 end
if ARGV[5] == '1' then redis.call('DEL', KEYS[2]) end
local items = redis.call('LRANGE', KEYS[1], ARGV[3], ARGV[4])
if #items == 0 then return redis.call('LLEN', KEYS[2]) end
return redis.call('RPUSH', KEYS[2], unpack(items))
