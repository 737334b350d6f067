-- Acknowledge a chunk if its lease is still held: count it, note the minutes it touched, and what may be trimmed.
-- needs: now, stamp, finish
-- KEYS: segments, segment, meta, leases, dirty, ledger, acked, scratch
-- ARGV: name, chunk, token, stored, dead_lettered, record, verified (0 or 1), minute ...
redis.call('DEL', KEYS[8])
local lease = redis.call('HGET', KEYS[4], ARGV[2])
local token, attempts = string.match(lease or '', '^(%S+) %d+ (%d+)$')
if token ~= ARGV[3] then return 0 end
if ARGV[7] == '0' then
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  if redis.call('HGET', KEYS[3], 'run') ~= run then
    -- A power cut may have made Redis forget another drainer's attempt since: given back, to be read back.
    redis.call('HSET', KEYS[4], ARGV[2], token .. ' 0 ' .. attempts)
    return 0
  end
end
redis.call('HSET', KEYS[4], ARGV[2], 'done')
local touch = stamp(KEYS[6])
for i = 8, #ARGV do redis.call('HSET', KEYS[5], ARGV[i], touch) end
redis.call('HINCRBY', KEYS[6], 'stored', ARGV[4])
redis.call('HINCRBY', KEYS[6], 'dead_lettered', ARGV[5])
redis.call('LPUSH', KEYS[7], ARGV[6] .. ' ' .. as_text(now_ms()))
finish(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[4] + ARGV[5])
return 1
