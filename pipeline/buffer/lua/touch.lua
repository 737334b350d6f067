-- Note touched minutes ahead of an ack that has too many of them; noting one twice is harmless.
-- needs: guard, stamp
-- KEYS: dirty, ledger, scratch   ARGV: minute ...
redis.call('DEL', KEYS[3])
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'hash')
if wrong then return wrong end
local touch = stamp(KEYS[2])
for i = 1, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], touch) end
return 1
