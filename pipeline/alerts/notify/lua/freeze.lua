-- Fix a notification before it is sent; 0 when another one of its group is on its way.
-- KEYS: in-flight, scratch   ARGV: group, notification, memory in s
redis.call('DEL', KEYS[2])
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
