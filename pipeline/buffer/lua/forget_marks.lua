-- Forget marks that stand in the table, and leave a sign by which a reader of the table sees that it is out of date.
-- needs: guard
-- KEYS: marks, checkpoints   ARGV: sign, name, ...
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'hash')
if wrong then return wrong end
for i = 2, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('HSET', KEYS[2], 'marks', ARGV[1])
return 1
