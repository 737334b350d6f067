-- How much of a segment's list is there and which end is still as it was; see damage.py.
-- {type, length, freed, head is right, tail is right, the item where the head would be if items were put in front of it
-- is right, the item where the tail would be if items were put behind it is right}
-- Nil when the segment is finished.
-- needs: segment
-- KEYS: segment, segments, sealed   ARGV: name
local wrong = wrong_type(KEYS[2], 'zset', KEYS[3], 'hash')
if wrong then return wrong end
local is_over, damage = finished(KEYS[1], ARGV[1], KEYS[2])
if damage then return damage end
if is_over then return false end
local facts
facts, damage = read_segment(KEYS[1], ARGV[1], KEYS[3])
if not facts then return damage end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'list' then return {kind, 0, facts.freed, 0, 0, 0, 0} end
local length = redis.call('LLEN', KEYS[1])
local excess = length - (facts.rows - facts.freed)
local function is_there(index, expected)
  return looks_like(KEYS[1], index, expected) and 1 or 0
end
return {kind, length, facts.freed, is_there(0, facts.head), is_there(-1, facts.tail),
  is_there(excess, facts.head), is_there(-1 - excess, facts.tail)}
