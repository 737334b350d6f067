-- Whether a spilled file is what counts for its chunk. A file that the hash does not name is a left-over, unless rows
-- are missing from the hash that the ledger knows: then the hash was damaged, and the file is entered again.
-- needs: guard
-- KEYS: spilled, segments, ledger, scratch   ARGV: field, rows, segment
redis.call('DEL', KEYS[4])
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'zset') or wrong_ledger(KEYS[3])
if wrong then return wrong end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 1 end
if redis.call('ZSCORE', KEYS[2], ARGV[3]) then return 0 end
local known = 0
for _, rows in ipairs(redis.call('HVALS', KEYS[1])) do known = known + (whole(rows) or 0) end
if known + ARGV[2] > (whole(redis.call('HGET', KEYS[3], 'spilled')) or 0) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
