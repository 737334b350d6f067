-- Gives keys that never expire the TTL they should have had; deletes nothing.
-- KEYS: any number   ARGV: TTL in seconds   Returns how many were mended.
-- The document's clean-up deletes keys without a TTL, also a result that was written a moment ago and gets its
-- EXPIRE in the next command.
-- With nothing left Redis would delete the keys.
if not string.find(ARGV[1] or '', '^%d+$') or #ARGV[1] > 15 or tonumber(ARGV[1]) < 1 then
    return redis.error_reply('ERR the TTL must be at least one second, a whole number of up to 15 digits')
end
local mended = 0
for _, key in ipairs(KEYS) do
    if redis.call('TTL', key) == -1 then
        redis.call('EXPIRE', key, ARGV[1])
        mended = mended + 1
    end
end
return mended
