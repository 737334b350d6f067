-- Makes states and transitions true in one step, if no other process committed since the expected version.
-- What is large was staged before: here it is only counted and kept.
-- needs: keys
-- KEYS: state, scratch, commits, table outbox, redis outbox, pending of each channel ..., staged lists ..., lists to drop ...
-- ARGV: expected version, version, channel memory in s, numbers of channels, of staged lists, of fields, of notices,
--       '1' when a staged list holds the notices, length of each staged list ..., (field, text or '') of each field ...,
--       (id, row, entry, note) of each notice ...
-- Answers 1 (committed), 0 (another process committed) or -1 (a staged list is gone).
redis.call('DEL', KEYS[2])
local at = 0
local function next_argument() at = at + 1; return ARGV[at] end
local expected, version, memory_s = next_argument(), next_argument(), next_argument()
local channels, staged = tonumber(next_argument()), tonumber(next_argument())
local fields, notices = tonumber(next_argument()), tonumber(next_argument())
local notices_are_staged = next_argument() == '1'
if (redis.call('HGET', KEYS[1], 'version') or '') ~= expected then return 0 end
local sound = is_a(KEYS[3], 'list') and is_a(KEYS[4], 'list') and is_a(KEYS[5], 'list')
for channel = 6, 5 + channels do sound = sound and is_a(KEYS[channel], 'hash') end
if not sound then return redis.error_reply('WRONGTYPE a key of the alerts') end
local lengths = {}
for i = 1, staged do
  lengths[i] = tonumber(next_argument())
  if redis.call('LLEN', KEYS[5 + channels + i]) ~= lengths[i] then return -1 end
end
for i = 1, staged do redis.call('PERSIST', KEYS[5 + channels + i]) end
redis.call('HSET', KEYS[1], 'version', version)
for _ = 1, fields do
  local field, text = next_argument(), next_argument()
  if text == '' then redis.call('HDEL', KEYS[1], field) else redis.call('HSET', KEYS[1], field, text) end
end
for i = 6 + channels + staged, #KEYS do redis.call('UNLINK', KEYS[i]) end
if notices_are_staged then redis.call('RPUSH', KEYS[3], version) end
for _ = 1, notices do
  local id, row, entry, note = next_argument(), next_argument(), next_argument(), next_argument()
  redis.call('RPUSH', KEYS[4], row)
  redis.call('RPUSH', KEYS[5], entry)
  for channel = 6, 5 + channels do redis.call('HSETNX', KEYS[channel], id, note) end
end
if notices > 0 then
  for channel = 6, 5 + channels do redis.call('EXPIRE', KEYS[channel], memory_s) end
end
return 1
