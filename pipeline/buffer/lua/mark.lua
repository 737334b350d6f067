-- Mark a dead letter once, pushing its payload in the same step. A producer's write: refused when memory is full.
-- needs: guard
-- KEYS: marks, buffer, checkpoints   ARGV: name, mark, payload, as_of
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'list', KEYS[3], 'hash')
if wrong then return wrong end
-- Marks have left for the table since it was read: this letter's may be among them.
if (redis.call('HGET', KEYS[3], 'marks') or '') ~= ARGV[4] then return 'stale' end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 'before' end
if #ARGV[3] > 0 then redis.call('LPUSH', KEYS[2], ARGV[3]) end
return 'marked'
