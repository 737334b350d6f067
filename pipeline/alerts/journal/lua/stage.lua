-- Appends a piece to a list that is not read yet, and lets the list expire unless a commit keeps it.
-- KEYS: the list, scratch   ARGV: expiry in s, then the elements
redis.call('DEL', KEYS[2])
local length = 0
for first = 2, #ARGV, 1000 do
  length = redis.call('RPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return length
