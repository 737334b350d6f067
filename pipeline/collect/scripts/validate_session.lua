-- Validates a session, notes its last activity and prolongs it.
-- KEYS: session (string with a JSON object), blacklist entry   ARGV: now (ISO-8601), TTL in seconds
-- Returns {1, 'VALID'}, or {0, reason}.
-- The document's script HSETs the session, which is a string by the document: WRONGTYPE at every call.
if redis.call('EXISTS', KEYS[2]) == 1 then
    return {0, 'BLACKLISTED'}
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
    return {0, 'NOT_FOUND'}
end
if kind ~= 'string' then
    return {0, 'DAMAGED'}
end
local text = redis.call('GET', KEYS[1])
local decoded, session = pcall(cjson.decode, text)
if not decoded or type(session) ~= 'table' or not string.find(text, '^%s*{') then
    return {0, 'DAMAGED'}
end
-- The text is edited, not encoded anew: cjson turns empty arrays into objects and long numbers into floats. The last
-- field of the name is the one, unless it belongs to an object inside; then the session gets the field at its end.
if session.lastActivity ~= ARGV[1] then
    local stamp = string.gsub('"lastActivity":' .. cjson.encode(ARGV[1]), '%%', '%%%%')
    local edited = string.gsub(text, '^(.*)"lastActivity"%s*:%s*"[^"\\]*"', '%1' .. stamp, 1)
    local sound, again = pcall(cjson.decode, edited)
    if not sound or again.lastActivity ~= ARGV[1] then
        edited = string.gsub(text, '}%s*$', (next(session) and ',' or '') .. stamp .. '}', 1)
    end
    text = edited
end
redis.call('SET', KEYS[1], text, 'EX', ARGV[2])
return {1, 'VALID'}
