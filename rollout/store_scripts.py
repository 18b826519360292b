"""What the store does in one go: its keys, and the scripts (Lua) that read and write them together.

Decides the layout of everything a store knows about rollouts. All keys that one script touches have one hash tag, so a
cluster keeps them on one node. It must never connect; nothing else may write these keys.

- ``hr:rollout:{MODEL}:plan``  the document, and ``:fence``, the newest lease that has written it
- ``hr:rollout:{MODEL}:evidence:BEGAN_REVISION``  hash, worker: its counters
- ``hr:gateways``  hash, worker: the store's time when it came in ms, a space, the heartbeat
- ``hr:rollout:models``  set of models that may have a plan
- ``hr:{rollout}:lease`` and ``hr:{rollout}:lease:fence``
- ``hr:rollout:changed``  channel; a message is a model's name
"""

from __future__ import annotations

BEATS_KEY = "hr:gateways"
MODELS_KEY = "hr:rollout:models"
LEASE_KEY = "hr:{rollout}:lease"
LEASE_FENCE_KEY = "hr:{rollout}:lease:fence"
CHANGED_CHANNEL = "hr:rollout:changed"


def plan_key(model: str) -> str:
    """The document."""
    return f"hr:rollout:{{{model}}}:plan"


def fence_key(model: str) -> str:
    """The fence of the newest lease that has written the document."""
    return f"hr:rollout:{{{model}}}:fence"


def evidence_key(model: str, began_revision: int) -> str:
    """What the workers counted of the plan that began with that revision."""
    return f"hr:rollout:{{{model}}}:evidence:{began_revision}"


# KEYS: plan, fence. ARGV: expected revision, fence, document, channel, model, most bytes of a document, format.
# Returns what became of it, what is stored, and the newest fence. What may be no plan is left as it is.
WRITE_PLAN = """
local newest = redis.call('GET', KEYS[2]) or '0'
local stored = ''
if redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[6]) then
  return {'corrupt', redis.call('GETRANGE', KEYS[1], 0, ARGV[6]), newest}
end
stored = redis.call('GET', KEYS[1]) or ''
if stored == ARGV[3] then return {'written', '', newest} end
local fence = tonumber(ARGV[2])
if fence > 0 and fence < tonumber(newest) then return {'fenced', stored, newest} end
local revision = 0
if stored ~= '' then
  local is_json, found = pcall(cjson.decode, stored)
  local is_plan = is_json and type(found) == 'table' and type(found['revision']) == 'number'
  if not is_plan or found['model'] ~= ARGV[5] or found['format'] ~= tonumber(ARGV[7]) then
    return {'corrupt', stored, newest}
  end
  revision = found['revision']
end
if revision ~= tonumber(ARGV[1]) then return {'conflict', stored, newest} end
redis.call('SET', KEYS[1], ARGV[3])
if fence > 0 then redis.call('SET', KEYS[2], ARGV[2]) end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return {'written', '', newest}
"""

# KEYS: evidence. ARGV: worker, counters, seconds to keep, most workers. Returns 0 when there are too many.
REPORT = """
local is_known = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
if not is_known and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""

# KEYS: heartbeats. ARGV: worker, heartbeat, most workers. Returns 0 when there are too many.
BEAT = """
local is_known = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
if not is_known and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now_ms) .. ARGV[2])
return 1
"""

# KEYS: heartbeats. ARGV: ms to keep one. Returns the rest; drops what is too old, or has no time.
BEATS = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local kept = {}
for i = 1, #all, 2 do
  local came_ms, beat = string.match(all[i + 1], '^(%d+) (.*)$')
  if came_ms and now_ms - tonumber(came_ms) <= tonumber(ARGV[1]) then
    kept[#kept + 1] = beat
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return kept
"""

# KEYS: lease, its fence. ARGV: owner, ms, least fence. Returns the fence, or 0 when it is another's.
# Numbers are written out: Lua's own way rounds large ones.
TAKE_LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
local fence = math.max((tonumber(redis.call('GET', KEYS[2]) or '0')) + 1, tonumber(ARGV[3]))
redis.call('SET', KEYS[2], string.format('%.0f', fence))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return fence
"""

# KEYS: lease. ARGV: owner, ms. Returns whether it is the owner's.
KEEP_LEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: lease. ARGV: owner.
DROP_LEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
