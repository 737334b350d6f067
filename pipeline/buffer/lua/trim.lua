-- Free some of what is finished at a segment's old end; how many rows are left of it. 100,000 at once took 4 ms.
-- needs: segment
-- KEYS: segment, sealed, scratch   ARGV: name, rows at most
redis.call('DEL', KEYS[3])
local facts = read_segment(KEYS[1], ARGV[1], KEYS[2])
if not facts or wrong_type(KEYS[1], 'list') then return 0 end
local finished = facts.trimmed * facts.chunk_rows
local freed = math.min(finished, facts.freed + ARGV[2])
-- Counted from the newest item, so that nothing that is still needed goes where items vanished at the old end. Where
-- some vanished elsewhere or came in, that count means other items, and the right length and tail would hide it.
local missing = facts.rows - facts.freed - redis.call('LLEN', KEYS[1])
if missing < 0 or (missing == 0) ~= looks_like(KEYS[1], -1, facts.tail) then return 0 end
if freed <= facts.freed or not looks_like(KEYS[1], 0, facts.head) then return 0 end
redis.call('LTRIM', KEYS[1], 0, facts.rows - freed - 1)
-- Where items are missing, the last one there is not the one that should be.
local tail = ''
if facts.tail == '-' then tail = '-'
elseif redis.call('LLEN', KEYS[1]) == facts.rows - freed then tail = fingerprint(KEYS[1], -1) end
redis.call('HSET', KEYS[1] .. ':meta', 'freed', freed, 'tail', tail)
return finished - freed
