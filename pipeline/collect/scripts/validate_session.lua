-- Validates a session, notes its last activity and prolongs it.
-- KEYS: session (string with a JSON object), blacklist entry   ARGV: now (ISO-8601), TTL in seconds
-- Returns {1, 'VALID'}, or {0, reason}.
-- The document's script HSETs the session, which is a string by the document: WRONGTYPE at every call.
if redis.call('EXISTS', KEYS[2]) == 1 then
    return {0, 'BLACKLISTED'}
end
local text = redis.call('GET', KEYS[1])
if not text then
    return {0, 'NOT_FOUND'}
end
local decoded, session = pcall(cjson.decode, text)
if not decoded or type(session) ~= 'table' then
    return {0, 'DAMAGED'}
end
-- The text is edited, not encoded anew: cjson turns empty arrays into objects and long numbers into floats.
local stamp = '"lastActivity":' .. cjson.encode(ARGV[1])
local edited, count = string.gsub(text, '"lastActivity"%s*:%s*"[^"\\]*"', (string.gsub(stamp, '%%', '%%%%')), 1)
if count == 0 then
    edited = string.gsub(text, '}%s*$', (next(session) and ',' or '') .. (string.gsub(stamp, '%%', '%%%%')) .. '}', 1)
end
redis.call('SET', KEYS[1], edited, 'EX', ARGV[2])
return {1, 'VALID'}
