-- Take out of delivery a chunk, and all chunks of its segment that no drainer holds: the list is gone, or nothing proves any
-- more which items are where. What is left of it waits for a person under the segment's name. Returns {kept, lost}.
-- The list may also hold items of chunks that are acknowledged, or held: then "kept" is too high until the items are
-- compared with ClickHouse (measure_aside.py). The record says for that which chunks were taken out, and from which
-- position on the list may hold items.
-- needs: segment
-- KEYS: segments, segment, sealed, set_aside, ledger, aside, scratch   ARGV: name, chunk, token, reason
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
  -- All chunks of one drainer carry the same token: only the one it asks for is its to give up.
  local is_asked_for = chunk == tonumber(ARGV[2]) and held_by(leases, chunk, ARGV[3])
  if not facts.done[chunk] and (is_asked_for or not (expires and tonumber(expires) > now)) then
    rows = rows + rows_of(facts, chunk)
    chunks[#chunks + 1] = chunk
  end
end
if #chunks == 0 then return {0, 0} end
local length = 0
if redis.call('TYPE', KEYS[2]).ok == 'list' then length = redis.call('LLEN', KEYS[2]) end
local record_before = redis.call('HGET', KEYS[4], ARGV[1]) or ''
if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('EXISTS', KEYS[6]) == 0 then redis.call('RENAME', KEYS[2], KEYS[6]) end
local kept_before = whole(string.match(record_before, '^%d+ (%d+) ')) or 0
local there = 0
if redis.call('TYPE', KEYS[6]).ok == 'list' then there = redis.call('LLEN', KEYS[6]) end
local kept = math.max(0, math.min(there - kept_before, rows))
local is_known, record = pcall(cjson.decode, string.match(record_before, '^%d+ %d+ %d+ (.*)$') or '')
if not is_known or type(record) ~= 'table' or type(record.chunks) ~= 'table' then
  record = {reason = ARGV[4], sealed_at_ms = facts.sealed_at, chunk_rows = facts.chunk_rows, chunks = {},
    since = math.max(0, facts.freed - math.max(0, facts.rows - facts.freed - length))}
end
for _, chunk in ipairs(chunks) do
  local range = record.chunks[#record.chunks]
  if range and range[2] + 1 == chunk then range[2] = chunk else record.chunks[#record.chunks + 1] = {chunk, chunk} end
end
record.measured = nil
replace_aside_record(KEYS[4], ARGV[1], kept, rows - kept, cjson.encode(record))
redis.call('HINCRBY', KEYS[5], 'set_aside', kept)
redis.call('HINCRBY', KEYS[5], 'lost', rows - kept)
facts.next = chunks_of(facts)
for chunk = facts.trimmed, facts.next - 1 do
  if redis.call('HEXISTS', leases, chunk) == 0 then redis.call('HSET', leases, chunk, 'aside 0 1') end
end
redis.call('HSET', KEYS[2] .. ':meta', 'next', facts.next)
for _, chunk in ipairs(chunks) do finish(KEYS[2], ARGV[1], KEYS[1], KEYS[3], facts, chunk) end
return {kept, rows - kept}
