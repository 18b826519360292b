-- Posts one body from a file, and prints the totals as one line that a program can read.
-- The percentiles are asked for in microseconds: the printed table rounds them.

function init(args)
  local file = assert(io.open(args[1], "rb"), "the body file is missing")
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  file:close()
end

function done(summary, latency, requests)
  io.write(string.format(
    'TOTALS {"requests":%d,"duration_us":%d,"p50_us":%.1f,"p99_us":%.1f,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect, summary.errors.read, summary.errors.write,
    summary.errors.status, summary.errors.timeout))
end
