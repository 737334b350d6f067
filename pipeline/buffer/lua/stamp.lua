-- stamp(ledger): the number of a touch, which never comes twice.
-- A counter for each minute would start again once the minute was forgotten, and a worker that had seen the old 1
-- would forget the new one. A counter for all of them is rewound by a power cut. So the stamp is the time in
-- microseconds, or one more than the last.
local function stamp(ledger)
  local time = redis.call('TIME')
  local last = tonumber(redis.call('HGET', ledger, 'touches') or 0)
  local touch = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('HSET', ledger, 'touches', touch)
  return touch
end
