-- What is known of a segment. Its facts (rows, chunk_rows, sealed_at, written_at, run, head) and how much of it is
-- finished (trimmed) stand twice: in its meta hash and in the hash of sealed segments. Its progress stands twice: in the
-- meta hash (next, done, acked_rows) and in the leases hash, which has a field for each chunk from "trimmed" to "next".
-- Whatever is damaged in one place is restored from the other (mend.lua).
-- needs: now, guard

-- fingerprint(key, index): what an item of a list looks like. '-' stands for items so large that reading one takes long.
local function fingerprint(key, index)
  local item = redis.call('LINDEX', key, index)
  if not item then return '' end
  return redis.sha1hex(#item .. ':' .. string.sub(item, 1, 512) .. string.sub(item, -512))
end

local function looks_like(key, index, expected)
  return expected == '-' or fingerprint(key, index) == expected
end

local function rows_of(facts, chunk)
  return math.min(facts.chunk_rows, facts.rows - chunk * facts.chunk_rows)
end

local function chunks_of(facts)
  return math.ceil(facts.rows / facts.chunk_rows)
end

-- acknowledged(facts): the rows of the chunks that are done.
local function acknowledged(facts)
  local rows = math.min(facts.trimmed * facts.chunk_rows, facts.rows)
  for chunk in pairs(facts.done) do rows = rows + rows_of(facts, chunk) end
  return rows
end

-- sealed_text(name, facts): the second copy, with a checksum.
local function sealed_text(name, facts)
  local text = table.concat({facts.rows, facts.chunk_rows, as_text(facts.sealed_at), as_text(facts.written_at),
    facts.run, facts.head, facts.trimmed}, ' ')
  return text .. ' ' .. redis.sha1hex(name .. text)
end

-- parse_sealed(name, text): the facts of a copy whose checksum is right, or nil.
local function parse_sealed(name, text)
  local body, sum = string.match(text or '', '^(.*) (%x+)$')
  if not body or redis.sha1hex(name .. body) ~= sum then return nil end
  local rows, chunk_rows, sealed_at, written_at, run, head, trimmed =
    string.match(body, '^(%d+) (%d+) (%d+) (%d+) (%w+) ([%w-]*) (%d+)$')
  if not rows then return nil end
  return {rows = tonumber(rows), chunk_rows = tonumber(chunk_rows), sealed_at = tonumber(sealed_at),
    written_at = tonumber(written_at), run = run, head = head, trimmed = tonumber(trimmed)}
end

-- parse_done(text, facts): the set of chunks in ",3,5,", or nil.
local function parse_done(text, facts)
  if not text or not string.match(text, '^,[%d,]*$') then return nil end
  local done = {}
  for number in string.gmatch(text, '%d+') do
    local chunk = whole(number)
    if not chunk or chunk < facts.trimmed or chunk >= chunks_of(facts) or done[chunk] then return nil end
    done[chunk] = true
  end
  return done
end

local function done_text(done)
  local numbers = {}
  for chunk in pairs(done) do numbers[#numbers + 1] = chunk end
  table.sort(numbers)
  return ',' .. table.concat(numbers, ',') .. (#numbers > 0 and ',' or '')
end

local FACTS = {'rows', 'chunk_rows', 'sealed_at', 'written_at', 'run', 'head', 'tail', 'freed', 'next', 'trimmed', 'done',
  'acked_rows'}

-- read_meta(key): the facts and the progress in a meta hash, or nil when they are not complete or contradict each other.
local function read_meta(key)
  local values = redis.call('HMGET', key .. ':meta', unpack(FACTS))
  -- An unknown run makes a chunk doubtful, which is safe.
  local facts = {run = string.match(values[5] or '', '^%w+$') or 'unknown', head = string.match(values[6] or ' ', '^[%w-]*$'),
    tail = values[7]}
  for i, name in ipairs(FACTS) do
    if i < 5 or i == 8 or i == 9 or i == 10 or i == 12 then
      facts[name] = whole(values[i])
      if not facts[name] then return nil end
    end
  end
  if not (facts.head and facts.tail) then return nil end
  if facts.rows < 1 or facts.chunk_rows < 1 or facts.trimmed >= chunks_of(facts) then return nil end
  if facts.next < facts.trimmed or facts.next > chunks_of(facts) then return nil end
  if facts.freed > facts.trimmed * facts.chunk_rows then return nil end
  facts.done = parse_done(values[11], facts)
  if not facts.done or acknowledged(facts) ~= facts.acked_rows then return nil end
  return facts
end

-- read_segment(key, name, sealed): the facts, or nil and an error reply when its keys are damaged.
local function read_segment(key, name, sealed)
  local wrong = wrong_type(key .. ':meta', 'hash', key .. ':leases', 'hash')
  if wrong then return nil, wrong end
  local facts = read_meta(key)
  if not facts then return nil, redis.error_reply('DAMAGED junk facts ' .. key .. ':meta') end
  local copy = parse_sealed(name, redis.call('HGET', sealed, name))
  if not copy or copy.rows ~= facts.rows or copy.chunk_rows ~= facts.chunk_rows or copy.head ~= facts.head
    or copy.trimmed ~= facts.trimmed then
    return nil, redis.error_reply('DAMAGED junk facts ' .. sealed)
  end
  -- A time before 2001 or from tomorrow on is not when it was sealed.
  if facts.sealed_at < 1e12 or facts.sealed_at > now_ms() + 86400000 then
    return nil, redis.error_reply('DAMAGED junk facts ' .. key .. ':meta')
  end
  if redis.call('HLEN', key .. ':leases') ~= facts.next - facts.trimmed then
    return nil, redis.error_reply('DAMAGED junk leases ' .. key .. ':leases')
  end
  return facts
end

-- finished(...): true when the segment is not there any more; an error reply when only the index forgot it.
local function finished(key, name, segments)
  if redis.call('ZSCORE', segments, name) then return false end
  if redis.call('EXISTS', key .. ':meta') == 0 then return true end
  return nil, redis.error_reply('DAMAGED junk facts ' .. segments)
end

-- write_segment(key, name, segments, sealed, facts): both copies of what is known.
local function write_segment(key, name, segments, sealed, facts)
  redis.call('HSET', key .. ':meta', 'rows', facts.rows, 'chunk_rows', facts.chunk_rows, 'sealed_at',
    as_text(facts.sealed_at), 'written_at', as_text(facts.written_at), 'run', facts.run, 'head', facts.head,
    'tail', facts.tail, 'freed', facts.freed, 'next', facts.next, 'trimmed', facts.trimmed,
    'done', done_text(facts.done), 'acked_rows', acknowledged(facts))
  redis.call('HSET', sealed, name, sealed_text(name, facts))
  redis.call('ZADD', segments, as_text(facts.sealed_at), name)
end

-- held_by(leases, chunk, token): the number of attempts when the lease is held under this token, else nil.
local function held_by(leases, chunk, token)
  local holder, attempts = string.match(redis.call('HGET', leases, chunk) or '', '^(%S+) %d+ (%d+)$')
  if holder == token then return attempts end
end

-- replace_aside_record(...): what a person has to know; the counts of several records of one name are added up.
local function replace_aside_record(set_aside, name, kept, lost, text)
  local kept_before, lost_before = string.match(redis.call('HGET', set_aside, name) or '', '^%d+ (%d+) (%d+) ')
  redis.call('HSET', set_aside, name, table.concat(
    {as_text(now_ms()), kept + (kept_before or 0), lost + (lost_before or 0), text}, ' '))
end

-- set_aside_record(...): the same, but the text of the first record stays.
local function set_aside_record(set_aside, name, kept, lost, text)
  local text_before = string.match(redis.call('HGET', set_aside, name) or '', '^%d+ %d+ %d+ (.*)$')
  replace_aside_record(set_aside, name, kept, lost, text_before or text)
end

-- finish(...): a chunk is done: count it, and note what is finished at the old end for trim.lua.
local function finish(key, name, segments, sealed, facts, chunk)
  local leases = key .. ':leases'
  facts.done[chunk] = true
  redis.call('HSET', leases, chunk, 'done')
  while facts.done[facts.trimmed] do
    facts.done[facts.trimmed] = nil
    redis.call('HDEL', leases, facts.trimmed)
    facts.trimmed = facts.trimmed + 1
  end
  if facts.trimmed >= chunks_of(facts) then
    redis.call('UNLINK', key, key .. ':meta', leases)
    redis.call('ZREM', segments, name)
    redis.call('HDEL', sealed, name)
    return
  end
  redis.call('HSET', key .. ':meta', 'trimmed', facts.trimmed, 'done', done_text(facts.done),
    'acked_rows', acknowledged(facts))
  redis.call('HSET', sealed, name, sealed_text(name, facts))
end

-- count_gone(...): rows of a chunk that were gone when it was read.
local function count_gone(set_aside, ledger, name, chunk, gone, why)
  if tonumber(gone) == 0 then return end
  set_aside_record(set_aside, name .. ':' .. chunk, 0, gone, why)
  redis.call('HINCRBY', ledger, 'lost', gone)
end
