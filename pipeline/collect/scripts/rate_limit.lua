-- Counts a request against a limit for a span of time that begins with the first one.
-- KEYS: counter   ARGV: limit, span in seconds
-- Returns {1 if allowed, requests so far, milliseconds until the span ends}.
-- The document's INCR key EX n is no command; INCR and EXPIRE apart leave a counter for ever when a client dies between.
local count = redis.call('INCR', KEYS[1])
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms < 0 then
    left_ms = tonumber(ARGV[2]) * 1000
    redis.call('PEXPIRE', KEYS[1], left_ms)
end
return {count <= tonumber(ARGV[1]) and 1 or 0, count, left_ms}
