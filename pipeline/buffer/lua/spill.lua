-- Let go of a chunk that now lies in a file, if its lease is still held; from here on the file is what counts.
-- needs: segment
-- KEYS: segments, segment, sealed, set_aside, spilled, ledger, scratch
-- ARGV: name, chunk, token, rows, gone, why they are gone
redis.call('DEL', KEYS[7])
local wrong = wrong_type(KEYS[1], 'zset', KEYS[3], 'hash', KEYS[4], 'hash', KEYS[5], 'hash') or wrong_ledger(KEYS[6])
if wrong then return wrong end
local is_over, damage = finished(KEYS[2], ARGV[1], KEYS[1])
if damage then return damage end
if is_over then return 0 end
local facts
facts, damage = read_segment(KEYS[2], ARGV[1], KEYS[3])
if not facts then return damage end
if not held_by(KEYS[2] .. ':leases', ARGV[2], ARGV[3]) or facts.done[tonumber(ARGV[2])] then return 0 end
redis.call('HSET', KEYS[5], ARGV[1] .. ':' .. ARGV[2], ARGV[4])
redis.call('HINCRBY', KEYS[6], 'spilled', ARGV[4])
count_gone(KEYS[4], KEYS[6], ARGV[1], ARGV[2], ARGV[5], ARGV[6])
finish(KEYS[2], ARGV[1], KEYS[1], KEYS[3], facts, tonumber(ARGV[2]))
return 1
