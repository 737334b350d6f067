-- now_ms(): Redis's clock in milliseconds, as a number. as_text(n): a whole number without an exponent.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function as_text(number)
  return string.format('%.0f', number)
end
