-- Let go of a chunk that now lies in a file, if its lease is still held; from here on the file is what counts.
-- needs: finish
-- KEYS: segments, segment, meta, leases, spilled, ledger, scratch   ARGV: name, chunk, token, rows
redis.call('DEL', KEYS[7])
local lease = redis.call('HGET', KEYS[4], ARGV[2])
if string.match(lease or '', '^(%S+) %d+ %d+$') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[4], ARGV[2], 'done')
redis.call('HSET', KEYS[5], ARGV[1] .. ':' .. ARGV[2], ARGV[4])
redis.call('HINCRBY', KEYS[6], 'spilled', ARGV[4])
finish(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[4])
return 1
