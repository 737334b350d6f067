-- Move items that another program pushed onto a segment to the buffer, where they were meant to go; how many were moved.
-- needs: segment
-- KEYS: segment, sealed, buffer, scratch   ARGV: name, items at most
redis.call('DEL', KEYS[4])
local facts = read_segment(KEYS[1], ARGV[1], KEYS[2])
if not facts or wrong_type(KEYS[1], 'list', KEYS[3], 'list') then return 0 end
local excess = redis.call('LLEN', KEYS[1]) - (facts.rows - facts.freed)
if excess <= 0 then return 0 end
local step = math.min(excess, tonumber(ARGV[2]))
if facts.head == '-' then return 0 end
local function is(index, expected) return looks_like(KEYS[1], index, expected) end
local items
if is(0, facts.head) and is(-1 - excess, facts.tail) then
  items = redis.call('LRANGE', KEYS[1], -step, -1)
  redis.call('LTRIM', KEYS[1], 0, -1 - step)
elseif is(-1, facts.tail) and is(excess, facts.head) then
  items = redis.call('LRANGE', KEYS[1], 0, step - 1)
  redis.call('LTRIM', KEYS[1], step, -1)
else
  return 0
end
for i = #items, 1, -1 do redis.call('LPUSH', KEYS[3], items[i]) end
return step
