-- Pushes what a collector found, together with the state that says it was found: each group of items goes only if
-- its state is still as the collector read it.
-- KEYS: scratch, buffer, collected   ARGV: now in epoch milliseconds, and for each group: state's name, before, after,
-- what its gaps are counted under, number of gaps, number of items, items...
-- Returns for each group how many items were pushed, or -1 where another collector was faster.
redis.call('DEL', KEYS[1])
local pushed = {}
local at = 2
while at <= #ARGV do
    local name, before, after = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local gapped, gaps, count = ARGV[at + 3], tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    local held = redis.call('HGET', KEYS[3], name) or ''
    if held == before then
        for index = at + 6, at + 5 + count do
            redis.call('LPUSH', KEYS[2], ARGV[index])
        end
        redis.call('HSET', KEYS[3], name, after)
        if gaps > 0 then
            redis.call('HINCRBY', KEYS[3], 'gaps:' .. gapped, gaps)
            redis.call('HSET', KEYS[3], 'gap_ms:' .. gapped, ARGV[1])
        end
        pushed[#pushed + 1] = count
    else
        pushed[#pushed + 1] = -1
    end
    at = at + 6 + count
end
return pushed
