-- wrk: in-order reports, five minutes apart, of 1,000 agents for each thread.
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
local sent = 0
function init(args)
  path = args[1]
  start = tonumber(args[2])
end
function request()
  local agent = "bench-" .. number .. "-" .. (sent % 1000)
  local at = start + 300 * math.floor(sent / 1000)
  sent = sent + 1
  local body = string.format('{"spot_price":%.4f,"pool_id":"m5.large.us-east-1a","timestamp":%d}',
    0.03 + (sent % 50) / 10000, at)
  return wrk.format("POST", string.format(path, agent), {["Content-Type"] = "application/json"}, body)
end
