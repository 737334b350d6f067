-- Correct a record of what is set aside by what ClickHouse holds of it, if it still is as it was read; else 0.
-- An empty text ends the record.
-- needs: guard, now
-- KEYS: set_aside, ledger, acked, scratch
-- ARGV: name, the record as read, kept, lost, stored, dead_lettered, the record's new text, ledger record ...
redis.call('DEL', KEYS[4])
local wrong = wrong_type(KEYS[1], 'hash', KEYS[3], 'list') or wrong_ledger(KEYS[2])
if wrong then return wrong end
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local at, kept, lost = string.match(ARGV[2], '^(%d+) (%d+) (%d+) ')
redis.call('HINCRBY', KEYS[2], 'set_aside', ARGV[3] - kept)
redis.call('HINCRBY', KEYS[2], 'lost', ARGV[4] - lost)
redis.call('HINCRBY', KEYS[2], 'stored', ARGV[5])
redis.call('HINCRBY', KEYS[2], 'dead_lettered', ARGV[6])
if ARGV[7] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], table.concat({at, ARGV[3], ARGV[4], ARGV[7]}, ' ')) end
for i = 8, #ARGV do redis.call('LPUSH', KEYS[3], ARGV[i] .. ' ' .. as_text(now_ms())) end
return 1
