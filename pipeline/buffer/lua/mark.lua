-- Mark a dead letter once, pushing its payload in the same step. A producer's write: refused when memory is full.
-- needs: guard
-- KEYS: marks, buffer   ARGV: name, mark, payload
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'list')
if wrong then return wrong end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
if #ARGV[3] > 0 then redis.call('LPUSH', KEYS[2], ARGV[3]) end
return 1
