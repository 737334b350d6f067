-- Decide about some of the oldest items that are set aside under a name: p pushed to the buffer again, s stored already,
-- d dead-lettered already, x given up, k stored and counted elsewhere. With "1" at the end the record goes, and what is not there any more is lost.
-- Returns the number of items that are still kept, -1 when there is no such record.
-- needs: guard
-- KEYS: set_aside, aside, ledger, buffer, scratch   ARGV: name, decisions, 1 to end
redis.call('DEL', KEYS[5])
local wrong = wrong_type(KEYS[1], 'hash', KEYS[4], 'list') or wrong_ledger(KEYS[3])
if wrong then return wrong end
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then return -1 end
local at, kept, lost, text = string.match(record, '^(%d+) (%d+) (%d+) (.*)$')
if not at then at, kept, lost, text = '0', 0, 0, record end
kept, lost = tonumber(kept), tonumber(lost)
local is_list = redis.call('TYPE', KEYS[2]).ok == 'list'
local count, taken = {p = 0, s = 0, d = 0, x = 0}, 0
for decision in string.gmatch(ARGV[2], '[psdxk]') do
  local item = is_list and redis.call('RPOP', KEYS[2])
  if not item then break end
  taken = taken + 1
  if decision == 'p' then redis.call('LPUSH', KEYS[4], item) end
  -- More items than were counted were put there by another program: no counter knows them.
  if kept > 0 and decision ~= 'k' then
    kept = kept - 1
    count[decision] = count[decision] + 1
  end
end
local decided = count.p + count.s + count.d + count.x
redis.call('HINCRBY', KEYS[3], 'set_aside', 0 - decided)
redis.call('HINCRBY', KEYS[3], 'sealed', 0 - count.p)
redis.call('HINCRBY', KEYS[3], 'stored', count.s)
redis.call('HINCRBY', KEYS[3], 'dead_lettered', count.d)
redis.call('HINCRBY', KEYS[3], 'dropped', count.x)
if ARGV[3] == '1' then
  redis.call('HINCRBY', KEYS[3], 'set_aside', 0 - kept)
  redis.call('HINCRBY', KEYS[3], 'lost', kept)
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('UNLINK', KEYS[2])
  return 0
end
-- After a kill the next try must know the position of the oldest item that is left.
local is_known, facts = pcall(cjson.decode, text)
if is_known and type(facts) == 'table' and type(facts.first) == 'number' then
  facts.first = facts.first + taken
  text = cjson.encode(facts)
end
redis.call('HSET', KEYS[1], ARGV[1], table.concat({at, kept, lost, text}, ' '))
return kept
