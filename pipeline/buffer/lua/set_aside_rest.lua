-- Take out of delivery all chunks of a segment that no drainer holds: its list is gone, or nothing proves any more which
-- items are where. What is left of it waits for a person under the segment's name. Returns {kept, lost}.
-- needs: segment
-- KEYS: segments, segment, sealed, set_aside, ledger, aside, scratch   ARGV: name, chunk, token, record
redis.call('DEL', KEYS[7])
local wrong = wrong_type(KEYS[1], 'zset', KEYS[3], 'hash', KEYS[4], 'hash') or wrong_ledger(KEYS[5])
if wrong then return wrong end
local is_over, damage = finished(KEYS[2], ARGV[1], KEYS[1])
if damage then return damage end
if is_over then return {0, 0} end
local facts
facts, damage = read_segment(KEYS[2], ARGV[1], KEYS[3])
if not facts then return damage end
local leases = KEYS[2] .. ':leases'
local now, rows, chunks = now_ms(), 0, {}
for chunk = facts.trimmed, chunks_of(facts) - 1 do
  local expires = string.match(redis.call('HGET', leases, chunk) or '', '^%S+ (%d+) %d+$')
  local held = expires and tonumber(expires) > now and not held_by(leases, chunk, ARGV[3])
  if not facts.done[chunk] and not held then
    rows = rows + rows_of(facts, chunk)
    chunks[#chunks + 1] = chunk
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('EXISTS', KEYS[6]) == 0 then redis.call('RENAME', KEYS[2], KEYS[6]) end
local kept_before = whole(string.match(redis.call('HGET', KEYS[4], ARGV[1]) or '', '^%d+ (%d+) ')) or 0
local there = 0
if redis.call('TYPE', KEYS[6]).ok == 'list' then there = redis.call('LLEN', KEYS[6]) end
local kept = math.max(0, math.min(there - kept_before, rows))
set_aside_record(KEYS[4], ARGV[1], kept, rows - kept, ARGV[4])
redis.call('HINCRBY', KEYS[5], 'set_aside', kept)
redis.call('HINCRBY', KEYS[5], 'lost', rows - kept)
facts.next = chunks_of(facts)
for chunk = facts.trimmed, facts.next - 1 do
  if redis.call('HEXISTS', leases, chunk) == 0 then redis.call('HSET', leases, chunk, 'aside 0 1') end
end
redis.call('HSET', KEYS[2] .. ':meta', 'next', facts.next)
for _, chunk in ipairs(chunks) do finish(KEYS[2], ARGV[1], KEYS[1], KEYS[3], facts, chunk) end
return {kept, rows - kept}
