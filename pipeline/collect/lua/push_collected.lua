-- Pushes what a collector found, together with the state that says it was found: each group of items goes only if
-- its state is still as the collector read it.
-- KEYS: scratch, buffer, collected   ARGV: for each group: state's name, before, after, number of items, items...
-- Returns for each group how many items were pushed, or -1 where another collector was faster.
redis.call('DEL', KEYS[1])
local pushed = {}
local at = 1
while at <= #ARGV do
    local name, before, after, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
    local held = redis.call('HGET', KEYS[3], name) or ''
    if held == before then
        for index = at + 4, at + 3 + count do
            redis.call('LPUSH', KEYS[2], ARGV[index])
        end
        redis.call('HSET', KEYS[3], name, after)
        pushed[#pushed + 1] = count
    else
        pushed[#pushed + 1] = -1
    end
    at = at + 4 + count
end
return pushed
