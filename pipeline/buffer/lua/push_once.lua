-- Pushes items, once for each key of their sender: what was answered the first time is answered again.
-- A producer's script: a full Redis refuses it, as it refuses every producer.
-- KEYS: buffer, marker (left out without a key of the sender's). ARGV: digest of what is sent, answer, life of the marker in s, items.
-- Returns {'pushed', answer}, {'repeated', answer} or {'other'}, where the key came with something else before.
if KEYS[2] then
    local before = redis.call('HMGET', KEYS[2], 'digest', 'answer')
    if before[1] then
        if before[1] ~= ARGV[1] then return {'other'} end
        return {'repeated', before[2]}
    end
end
for first = 4, #ARGV, 1000 do
    redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if KEYS[2] then
    redis.call('HSET', KEYS[2], 'digest', ARGV[1], 'answer', ARGV[2])
    redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return {'pushed', ARGV[2]}
