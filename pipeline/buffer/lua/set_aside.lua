-- Take a chunk out of its segment, if its lease is still held: it waits for a person, its items in a list of its own.
-- What of its rows is not in that list is lost. 0 when the lease is lost.
-- needs: segment
-- KEYS: segments, segment, sealed, set_aside, ledger, aside, scratch   ARGV: name, chunk, token, record
redis.call('DEL', KEYS[7])
local wrong = wrong_type(KEYS[1], 'zset', KEYS[3], 'hash', KEYS[4], 'hash', KEYS[6], 'list') or wrong_ledger(KEYS[5])
if wrong then return wrong end
local is_over, damage = finished(KEYS[2], ARGV[1], KEYS[1])
if damage then return damage end
if is_over then return 0 end
local facts
facts, damage = read_segment(KEYS[2], ARGV[1], KEYS[3])
if not facts then return damage end
local chunk = tonumber(ARGV[2])
if not held_by(KEYS[2] .. ':leases', chunk, ARGV[3]) or facts.done[chunk] then return 0 end
local kept = redis.call('LLEN', KEYS[6])
local lost = math.max(0, rows_of(facts, chunk) - kept)
set_aside_record(KEYS[4], ARGV[1] .. ':' .. chunk, kept, lost, ARGV[4])
redis.call('HINCRBY', KEYS[5], 'set_aside', kept)
redis.call('HINCRBY', KEYS[5], 'lost', lost)
finish(KEYS[2], ARGV[1], KEYS[1], KEYS[3], facts, chunk)
return 1
