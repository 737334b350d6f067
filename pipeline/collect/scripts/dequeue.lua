-- Takes the most urgent test of a queue if a resource has room for it.
-- KEYS: queue (sorted set), resource (hash, such as resource:workers; its field running counts)
-- ARGV: most that may run
-- Returns the test, or nil when the queue is empty or the resource is full.
-- The document's script returned test[2], which is the score: ZPOPMIN answers {member, score}. A higher score is more
-- urgent in the document's example (high 100, medium 50, low 25), so this takes the highest. It counts before it takes:
-- a script that fails half-way is not undone, and the test would be gone.
local most = tonumber(ARGV[1])
if most == nil or most ~= most then
    return redis.error_reply('ERR the most that may run must be a number')
end
local running = redis.call('HGET', KEYS[2], 'running') or '0'
if not string.find(running, '^-?%d+$') then
    return redis.error_reply("ERR the resource's field 'running' is not a whole number")
end
if tonumber(running) >= most or redis.call('ZCARD', KEYS[1]) == 0 then
    return nil
end
redis.call('HINCRBY', KEYS[2], 'running', 1)
return redis.call('ZPOPMAX', KEYS[1])[1]
