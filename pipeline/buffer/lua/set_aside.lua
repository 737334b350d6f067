-- Take a chunk out of its segment, if its lease is still held: it waits for a person, its items in a list of its own.
-- What of its rows is not in that list is lost. 0 when the lease is lost.
-- needs: now, finish
-- KEYS: segments, segment, meta, leases, set_aside, ledger, aside, scratch   ARGV: name, chunk, token, rows, record
redis.call('DEL', KEYS[8])
local lease = redis.call('HGET', KEYS[4], ARGV[2])
if string.match(lease or '', '^(%S+) %d+ %d+$') ~= ARGV[3] then return 0 end
local kept = redis.call('LLEN', KEYS[7])
local lost = ARGV[4] - kept
redis.call('HSET', KEYS[4], ARGV[2], 'done')
redis.call('HSET', KEYS[5], ARGV[1] .. ':' .. ARGV[2], as_text(now_ms()) .. ' ' .. kept .. ' ' .. lost .. ' ' .. ARGV[5])
redis.call('HINCRBY', KEYS[6], 'set_aside', kept)
redis.call('HINCRBY', KEYS[6], 'lost', lost)
finish(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[4])
return 1
