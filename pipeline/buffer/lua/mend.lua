-- Restore the keys of a buffer that another program damaged, each from where the same stands a second time.
-- A key of the wrong type is renamed to "<key>:junk-<time>", so that nothing of it is destroyed. What cannot be restored
-- is noted under set_aside, for a person. A segment of which nothing is known any more is set aside as a whole.
-- Returns a sentence for each thing that was done; nothing in the usual case, which takes some 10 µs a segment.
-- needs: segment
-- KEYS: segments, sealed, ledger, dirty, acked, spilled, marks, set_aside, scratch, checkpoints
-- ARGV: prefix of segment keys, prefix of set-aside lists
redis.call('DEL', KEYS[9])
local done = {}
local now = as_text(now_ms())

local function note(name, text)
  done[#done + 1] = text
  set_aside_record(KEYS[8], name, 0, 0, cjson.encode({reason = text}))
end

-- Types

local function move_junk(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == kind then return nil end
  local place = key .. ':junk-' .. now
  redis.call('RENAME', key, place)
  return found .. ' at ' .. key .. ' moved to ' .. place
end

local LOST_WITH = {
  [3] = 'the counters were restored so that the books balance',
  [4] = 'minutes to roll up are no longer known: run pipeline rollup --from 1d',
  [5] = 'records of acknowledged chunks are no longer known to the audit',
  [7] = 'marks of dead letters that were not in ClickHouse yet are gone',
}
-- First the key that takes the notes about the others.
done[#done + 1] = move_junk(KEYS[8], 'hash')
redis.call('PERSIST', KEYS[8])
for i, kind in ipairs({'zset', 'hash', 'hash', 'hash', 'list', 'hash', 'hash'}) do
  local moved = move_junk(KEYS[i], kind)
  if moved then note(string.match(KEYS[i], '[^:]+$'), moved .. (LOST_WITH[i] and '; ' .. LOST_WITH[i] or '')) end
  redis.call('PERSIST', KEYS[i])
end

done[#done + 1] = move_junk(KEYS[10], 'hash')

-- Segments

local names = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do names[name] = true end
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do names[name] = true end

-- from_leases(key, facts): the progress that the leases tell.
local function from_leases(key, facts)
  local leases = redis.call('HGETALL', key .. ':leases')
  facts.trimmed = facts.trimmed or whole(redis.call('HGET', key .. ':meta', 'trimmed')) or 0
  if #leases == 0 or facts.trimmed >= chunks_of(facts) then return false end
  facts.done, facts.next = {}, facts.trimmed
  for i = 1, #leases, 2 do
    local chunk = whole(leases[i])
    if chunk and chunk >= facts.trimmed and chunk < chunks_of(facts) then
      if leases[i + 1] == 'done' then facts.done[chunk] = true end
      facts.next = math.max(facts.next, chunk + 1)
    end
  end
  return true
end

-- from_list(key, facts): what only the list tells: how much of it was freed, and which item is the last now.
local function from_list(key, facts)
  facts.freed = math.min(facts.trimmed * facts.chunk_rows, facts.freed or 0)
  facts.tail = facts.head == '-' and '-' or facts.tail or ''
  if redis.call('TYPE', key).ok ~= 'list' then return end
  if not looks_like(key, 0, facts.head) then return end
  local freed = facts.rows - redis.call('LLEN', key)
  if freed >= 0 and freed <= facts.trimmed * facts.chunk_rows then
    facts.freed, facts.tail = freed, facts.head == '-' and '-' or fingerprint(key, -1)
  end
end

-- write_leases(key, facts): a field for each chunk that may be in work; what is not a lease ends at once.
local function write_leases(key, facts)
  local leases = key .. ':leases'
  for _, field in ipairs(redis.call('HKEYS', leases)) do
    local chunk = whole(field)
    if not chunk or chunk < facts.trimmed or chunk >= facts.next then redis.call('HDEL', leases, field) end
  end
  for chunk = facts.trimmed, facts.next - 1 do
    local lease = redis.call('HGET', leases, chunk) or ''
    if facts.done[chunk] then redis.call('HSET', leases, chunk, 'done')
    elseif not string.match(lease, '^%S+ %d+ %d+$') then redis.call('HSET', leases, chunk, 'unknown 0 1') end
  end
end

-- from_nothing(facts): both copies of the progress are gone. Chunks that are not trimmed are claimed again, and read back
-- before they are stored.
local function from_nothing(facts)
  facts.trimmed, facts.done = math.min(facts.trimmed or 0, chunks_of(facts) - 1), {}
  facts.next = chunks_of(facts)
end

-- of_before(key): the facts of a segment that a version without second copies sealed.
local function of_before(key)
  local values = redis.call('HMGET', key .. ':meta', 'rows', 'chunk_rows', 'sealed_at', 'run', 'head')
  local rows, chunk_rows, sealed_at, run = whole(values[1]), whole(values[2]), whole(values[3]), values[4]
  if values[5] or not (rows and chunk_rows and sealed_at and run) or redis.call('TYPE', key).ok ~= 'list' then return nil end
  if rows < 1 or chunk_rows < 1 or redis.call('LLEN', key) > rows then return nil end
  return {rows = rows, chunk_rows = chunk_rows, sealed_at = sealed_at, written_at = sealed_at, run = run,
    head = fingerprint(key, 0)}
end

local function set_whole_aside(key, name)
  local place, kept = ARGV[2] .. name, 0
  if redis.call('EXISTS', key) == 1 then
    if redis.call('EXISTS', place) == 1 then redis.call('RENAME', place, place .. ':junk-' .. now) end
    redis.call('RENAME', key, place)
    if redis.call('TYPE', place).ok == 'list' then kept = redis.call('LLEN', place) end
  end
  redis.call('UNLINK', key .. ':meta', key .. ':leases')
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
  if kept == 0 and not string.match(name, '^%x+%-%x+$') then
    done[#done + 1] = 'a name that is not a segment removed from ' .. KEYS[1]
    return 0
  end
  local text = 'nothing is known of this segment any more: its facts were removed or overwritten'
  set_aside_record(KEYS[8], name, kept, 0, cjson.encode({reason = text, unproved = true}))
  done[#done + 1] = 'segment ' .. name .. ' set aside: ' .. text
  return kept
end

local in_flight, open, whole_aside, nothing_known, uncertain = 0, 0, 0, false, false
for name in pairs(names) do
  local key = ARGV[1] .. name
  local moved = {}
  for _, one in ipairs({move_junk(key .. ':meta', 'hash') or '', move_junk(key .. ':leases', 'hash') or ''}) do
    if one ~= '' then moved[#moved + 1] = one end
  end
  for _, one in ipairs({key, key .. ':meta', key .. ':leases'}) do redis.call('PERSIST', one) end
  local facts = read_segment(key, name, KEYS[2])
  if not facts then
    local meta = read_meta(key)
    facts = parse_sealed(name, redis.call('HGET', KEYS[2], name)) or meta or of_before(key)
    local known = facts ~= nil
    if known and meta and meta.rows == facts.rows and meta.chunk_rows == facts.chunk_rows
      and (not facts.trimmed or meta.trimmed == facts.trimmed) then
      for _, field in ipairs({'tail', 'freed', 'next', 'trimmed', 'done'}) do facts[field] = meta[field] end
    elseif known then
      if not from_leases(key, facts) then
        from_nothing(facts)
        uncertain = true
      end
      from_list(key, facts)
    end
    if known then
      write_leases(key, facts)
      write_segment(key, name, KEYS[1], KEYS[2], facts)
      facts.acked_rows = acknowledged(facts)
      done[#done + 1] = 'segment ' .. name .. ' restored' .. (moved[1] and ': ' .. table.concat(moved, ', ') or '')
    else
      whole_aside = whole_aside + set_whole_aside(key, name)
      nothing_known = true
    end
  elseif not redis.call('ZSCORE', KEYS[1], name) then
    redis.call('ZADD', KEYS[1], as_text(facts.sealed_at), name)
    done[#done + 1] = 'segment ' .. name .. ' entered again in ' .. KEYS[1]
  end
  if facts then
    in_flight = in_flight + facts.rows - facts.acked_rows
    open = open + 1
    -- Fields that are not chunks and that no count gives away.
    write_leases(key, facts)
  end
end

-- Counters

local values, bad, sum = {}, {}, {spilled = 0, set_aside = 0}
for _, rows in ipairs(redis.call('HVALS', KEYS[6])) do sum.spilled = sum.spilled + (whole(rows) or 0) end
for _, record in ipairs(redis.call('HVALS', KEYS[8])) do
  sum.set_aside = sum.set_aside + (whole(string.match(record, '^%d+ (%d+) ')) or 0)
end
local missing = redis.call('HEXISTS', KEYS[3], 'sealed') == 0 and (open > 0 or sum.spilled + sum.set_aside > 0)
for i, name in ipairs(COUNTERS) do
  local value = redis.call('HGET', KEYS[3], name)
  values[name] = whole(value) or 0
  if (value and not whole(value)) or (missing and name == 'sealed') then bad[#bad + 1] = name end
end
if #bad == 0 and whole_aside > 0 then
  values.set_aside = values.set_aside + whole_aside
end
local rest = values.sealed - in_flight
if #bad > 0 then values.spilled, values.set_aside = sum.spilled, sum.set_aside end
for _, name in ipairs(COUNTERS) do
  if name ~= 'sealed' then rest = rest - values[name] end
end
if #bad > 0 then
  -- All other counters being right, the damaged one is what makes the books balance.
  local damaged = bad[1]
  if damaged == 'spilled' or damaged == 'set_aside' then damaged = bad[2] or 'stored' end
  if bad[1] == 'sealed' then values.sealed = values.sealed - rest
  elseif rest > 0 and not sum[damaged] then values[damaged] = values[damaged] + rest end
  note('ledger', 'counters of ' .. KEYS[3] .. ' were missing or not numbers (' .. table.concat(bad, ', ')
    .. ') and were restored so that the books balance')
elseif uncertain then
  -- Chunks whose ack was forgotten are counted again when they are claimed again.
  values.stored = math.max(0, values.stored + rest)
elseif nothing_known and rest > 0 then
  values.lost = values.lost + rest
elseif nothing_known then
  values.set_aside = math.max(0, values.set_aside + rest)
end
if #bad > 0 or uncertain or nothing_known then
  for _, name in ipairs(COUNTERS) do redis.call('HSET', KEYS[3], name, as_text(values[name])) end
end
return done
