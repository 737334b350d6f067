-- Takes the most urgent test of a queue if a resource has room for it.
-- KEYS: queue (sorted set), resource (hash)   ARGV: most that may run
-- Returns the test, or nil when the queue is empty or the resource is full.
-- The document's script returned test[2], which is the score: ZPOPMIN answers {member, score}. A higher score is more
-- urgent in the document's example (high 100, medium 50, low 25), so this takes the highest.
local running = tonumber(redis.call('HGET', KEYS[2], 'running') or '0')
if running == nil then
    return redis.error_reply("the resource's field 'running' is not a number")
end
if running >= tonumber(ARGV[1]) then
    return nil
end
local popped = redis.call('ZPOPMAX', KEYS[1])
if #popped == 0 then
    return nil
end
redis.call('HINCRBY', KEYS[2], 'running', 1)
return popped[1]
