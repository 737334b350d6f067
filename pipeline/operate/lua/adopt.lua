-- Copy keys, unless that was done before; how many were copied.
-- KEYS: adopted, then old and new in turn   ARGV: whose keys they were
if redis.call('SET', KEYS[1], ARGV[1], 'NX') == false then return 0 end
local copied = 0
for i = 2, #KEYS, 2 do copied = copied + redis.call('COPY', KEYS[i], KEYS[i + 1]) end
return copied
