-- Prolong a lease, or end it at once; 0 when it is held by another.
-- needs: now, guard
-- KEYS: leases, scratch, meta   ARGV: chunk, token, lease_ms (0 gives the chunk back, -1 says that its holder died),
-- begun (1 before an insert: its holder could read the chunk, so it is counted no more how often holders die)
redis.call('DEL', KEYS[2])
local wrong = wrong_type(KEYS[1], 'hash')
if wrong then return wrong end
local lease = redis.call('HGET', KEYS[1], ARGV[1])
local token, attempts = string.match(lease or '', '^(%S+) %d+ (%d+)$')
if token ~= ARGV[2] then return 0 end
local expires = 0
if ARGV[3] == '-1' then expires = 1 elseif ARGV[3] ~= '0' then expires = now_ms() + ARGV[3] end
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'lapses:' .. ARGV[1], 'begun')
end
redis.call('HSET', KEYS[1], ARGV[1], token .. ' ' .. as_text(expires) .. ' ' .. attempts)
return 1
