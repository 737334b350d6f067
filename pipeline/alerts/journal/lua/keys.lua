-- is_a(key, kind): whether a key is absent or of this type.
-- Nothing is written unless every key is what it should be: a script that fails half-way is not undone.
local function is_a(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == kind
end
