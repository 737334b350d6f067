-- stamp(ledger): the number of a touch, which never comes twice.
-- A counter for each minute would start again once the minute was forgotten, and a worker that had seen the old 1
-- would forget the new one. A counter for all of them is rewound by a power cut. So the stamp is the time in
-- microseconds, or one more than the last; what is not a number, or lies days ahead, was not written here.
local function stamp(ledger)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local last = tonumber(redis.call('HGET', ledger, 'touches') or 0)
  if not last or last ~= last or last > now + 10 * 86400 * 1000000 then last = 0 end
  local touch = string.format('%.0f', math.max(last + 1, now))
  redis.call('HSET', ledger, 'touches', touch)
  return touch
end
