-- Free some of what is finished at a segment's old end; how many rows are left of it. 100,000 at once took 4 ms.
-- KEYS: segment, meta, scratch   ARGV: rows at most
redis.call('DEL', KEYS[3])
local meta = redis.call('HMGET', KEYS[2], 'rows', 'chunk_rows', 'trimmed')
if not meta[1] then return 0 end
local excess = redis.call('LLEN', KEYS[1]) - (meta[1] - (meta[3] or 0) * meta[2])
if excess <= 0 then return 0 end
redis.call('LTRIM', KEYS[1], 0, -1 - math.min(excess, tonumber(ARGV[1])))
return math.max(0, excess - ARGV[1])
