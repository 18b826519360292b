-- Posts one body from a file as users that take turns, and prints the totals as one line that a program can read.
-- Requests are formatted once: what the generator does for each must not differ with the number of users.

local requests, at = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"), "the body file is missing")
  local body = file:read("*a")
  file:close()
  for user = 0, tonumber(args[2]) - 1 do
    local headers = { ["Content-Type"] = "application/json", ["x-user"] = "u" .. user }
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  io.write(string.format(
    'TOTALS {"requests":%d,"duration_us":%d,"p50_us":%.1f,"p99_us":%.1f,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect, summary.errors.read, summary.errors.write,
    summary.errors.status, summary.errors.timeout))
end
