//! The scripts. Redis runs each of them as one unit, so data, position and generation change together or not at all.
//!
//! A collection is one hash (field: key), its tombstones are a second one, and all positions and generations of a prefix
//! are fields of one hash of the hub's own. Numbers in Lua are doubles; versions stay below 2^53.

/// Applies a batch.
///
/// KEYS: positions hash, records hash, tombstones hash.
/// ARGV: field of the live generation, the generation that must (not) be live, `live`/`beside`/`any`, position field or
/// empty, expected position or empty, next position, `apply`/`repair`/`append`/`first` (repair of a projection of events),
/// then per event: identity, version, value, `1` for a delete.
/// Answer: the number of records written, or `fenced` and why.
pub(crate) const WRITE: &str = r#"
local live = redis.call('HGET', KEYS[1], ARGV[1]) or '1'
if ARGV[3] == 'live' and live ~= ARGV[2] then return {err = 'FENCED generation ' .. live .. ' is live, not ' .. ARGV[2]} end
if ARGV[3] == 'beside' and live == ARGV[2] then return {err = 'FENCED generation ' .. live .. ' is live now'} end
if ARGV[4] ~= '' then
  local at = redis.call('HGET', KEYS[1], ARGV[4]) or ''
  if at ~= ARGV[5] then return {err = 'FENCED the position is ' .. at .. ', expected ' .. ARGV[5]} end
end
local mode = ARGV[7]
local every = mode == 'append' or mode == 'first'
local tombstones = redis.call('EXISTS', KEYS[3]) == 1
local applied = 0
for i = 8, #ARGV, 4 do
  local field, version, value, delete = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3] == '1'
  local there = redis.call('HGET', KEYS[2], field)
  local dead = false
  if not there and tombstones then
    there = redis.call('HGET', KEYS[3], field)
    dead = there and true or false
  end
  local stored = there and tonumber(string.match(there, '^{"_version":(%d+)')) or -1
  local write = stored < version
  if mode == 'append' then write = not there
  elseif mode == 'first' then write = not there or stored >= version
  elseif mode == 'repair' then write = stored <= version end
  if write then
    applied = applied + 1
    if delete and not every then
      if there and not dead then redis.call('HDEL', KEYS[2], field) end
      redis.call('HSET', KEYS[3], field, value)
      tombstones = true
    else
      if dead then redis.call('HDEL', KEYS[3], field) end
      redis.call('HSET', KEYS[2], field, value)
    end
  end
end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], ARGV[4], ARGV[6]) end
return applied
"#;

/// Makes another generation live.
///
/// KEYS: positions hash, then pairs of hashes to be renamed (from, to) in order, then hashes to be dropped.
/// ARGV: field prefix of the collection's generations, the generation to be live, the one that is live now, `1` if it must
/// have caught up, position prefix of the live one, position prefix of the other, the previous generation or empty,
/// position prefix of the generation to be dropped or empty, the number of pairs.
/// Answer: 1 when it was done, 0 when not.
pub(crate) const SWAP: &str = r#"
local state = KEYS[1]
local function field(name) return ARGV[1] .. name end
local live = redis.call('HGET', state, field('live')) or '1'
local previous = redis.call('HGET', state, field('previous')) or ''
if live ~= ARGV[3] or live == ARGV[2] or previous ~= ARGV[7] then return 0 end
local all = redis.call('HGETALL', state)
local positions = {}
for i = 1, #all, 2 do positions[all[i]] = all[i + 1] end
local function begins(text, start) return string.sub(text, 1, #start) == start end
if ARGV[4] == '1' then
  for name, at in pairs(positions) do
    if begins(name, ARGV[5]) then
      local other = positions[ARGV[6] .. string.sub(name, #ARGV[5] + 1)]
      if not other or tonumber(other) < tonumber(at) then return 0 end
    end
  end
end
local pairs_end = 1 + 2 * tonumber(ARGV[9])
if ARGV[8] ~= '' then
  for i = pairs_end + 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
  for name, _ in pairs(positions) do
    if begins(name, ARGV[8]) then redis.call('HDEL', state, name) end
  end
end
for i = 2, pairs_end, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('RENAME', KEYS[i], KEYS[i + 1]) end
end
redis.call('HSET', state, field('live'), ARGV[2], field('previous'), live)
if redis.call('HGET', state, field('rebuild')) == ARGV[2] then redis.call('HDEL', state, field('rebuild'), field('plan')) end
return 1
"#;

/// Removes a build.
///
/// KEYS: positions hash, then hashes to be dropped. ARGV: position prefix, field prefix of the collection's generations,
/// the generation or empty.
pub(crate) const DISCARD: &str = r#"
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, #ARGV[1]) == ARGV[1] then redis.call('HDEL', KEYS[1], name) end
end
if ARGV[3] ~= '' then
  if redis.call('HGET', KEYS[1], ARGV[2] .. 'rebuild') == ARGV[3] then
    redis.call('HDEL', KEYS[1], ARGV[2] .. 'rebuild', ARGV[2] .. 'plan')
  end
  if redis.call('HGET', KEYS[1], ARGV[2] .. 'previous') == ARGV[3] then redis.call('HDEL', KEYS[1], ARGV[2] .. 'previous') end
end
return 1
"#;
