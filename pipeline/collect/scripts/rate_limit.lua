-- Counts a request against a limit for a span of time that begins with the first one.
-- KEYS: counter   ARGV: limit, span in seconds
-- Returns {1 if allowed, requests so far, milliseconds until the span ends}.
-- The document's INCR key EX n is no command; INCR and EXPIRE apart leave a counter for ever when a client dies between.
local limit, span_ms = tonumber(ARGV[1]), math.floor((tonumber(ARGV[2]) or 0) * 1000)
if limit == nil or limit ~= limit or not (span_ms >= 1 and span_ms < 1e15) then
    return redis.error_reply('ERR the limit must be a number, and the span a positive number of seconds below 1e12')
end
local count = redis.call('INCR', KEYS[1])
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms < 0 then
    left_ms = span_ms
    redis.call('PEXPIRE', KEYS[1], left_ms)
end
return {count <= limit and 1 or 0, count, left_ms}
