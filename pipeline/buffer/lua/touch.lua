-- Note touched minutes ahead of an ack that has too many of them; noting one twice is harmless.
-- needs: stamp
-- KEYS: dirty, ledger, scratch   ARGV: minute ...
redis.call('DEL', KEYS[3])
local touch = stamp(KEYS[2])
for i = 1, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], touch) end
return 1
