-- Acknowledge a chunk if its lease is still held: count it, note the minutes it touched, and what may be trimmed.
-- needs: segment, stamp
-- KEYS: segments, segment, sealed, set_aside, dirty, ledger, acked, scratch
-- ARGV: name, chunk, token, stored, dead_lettered, record, verified (0 or 1), gone, why they are gone, minute ...
redis.call('DEL', KEYS[8])
local wrong = wrong_type(KEYS[1], 'zset', KEYS[3], 'hash', KEYS[4], 'hash', KEYS[5], 'hash', KEYS[7], 'list')
wrong = wrong or wrong_ledger(KEYS[6])
if wrong then return wrong end
local is_over, damage = finished(KEYS[2], ARGV[1], KEYS[1])
if damage then return damage end
if is_over then return 0 end
local facts
facts, damage = read_segment(KEYS[2], ARGV[1], KEYS[3])
if not facts then return damage end
local leases = KEYS[2] .. ':leases'
local attempts = held_by(leases, ARGV[2], ARGV[3])
if not attempts or facts.done[tonumber(ARGV[2])] then return 0 end
if ARGV[7] == '0' and facts.run ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') then
  -- A power cut may have made Redis forget another drainer's attempt since: given back, to be read back.
  redis.call('HSET', leases, ARGV[2], ARGV[3] .. ' 0 ' .. attempts)
  return 0
end
local touch = stamp(KEYS[6])
for i = 10, #ARGV do redis.call('HSET', KEYS[5], ARGV[i], touch) end
redis.call('HINCRBY', KEYS[6], 'stored', ARGV[4])
redis.call('HINCRBY', KEYS[6], 'dead_lettered', ARGV[5])
count_gone(KEYS[4], KEYS[6], ARGV[1], ARGV[2], ARGV[8], ARGV[9])
redis.call('LPUSH', KEYS[7], ARGV[6] .. ' ' .. as_text(now_ms()))
finish(KEYS[2], ARGV[1], KEYS[1], KEYS[3], facts, tonumber(ARGV[2]))
return 1
