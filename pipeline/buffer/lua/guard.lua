-- wrong_type(key, type, ...): an error reply when one of the keys is there and of another type, else nil.
-- A script that fails half-way is not undone, so that every script looks at its keys before it writes.
local function wrong_type(...)
  local wanted = {...}
  for i = 1, #wanted, 2 do
    local kind = redis.call('TYPE', wanted[i]).ok
    if kind ~= 'none' and kind ~= wanted[i + 1] then
      return redis.error_reply('DAMAGED ' .. kind .. ' ' .. wanted[i + 1] .. ' ' .. wanted[i])
    end
  end
end

-- whole(text): a whole number that fits a double exactly, or nil.
local function whole(text)
  if text and #text < 16 and string.match(text, '^%d+$') then return tonumber(text) end
end

-- The counters of the books.
local COUNTERS = {'sealed', 'stored', 'dead_lettered', 'spilled', 'dropped', 'lost', 'set_aside'}

-- wrong_ledger(ledger): an error reply when the ledger cannot be counted on, else nil.
local function wrong_ledger(ledger)
  local wrong = wrong_type(ledger, 'hash')
  if wrong then return wrong end
  local values = redis.call('HMGET', ledger, unpack(COUNTERS))
  for i, value in ipairs(values) do
    if value and not whole(value) then
      return redis.error_reply('DAMAGED ' .. COUNTERS[i] .. ' integer ' .. ledger)
    end
  end
end
