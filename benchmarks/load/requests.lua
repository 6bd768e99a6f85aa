-- Send the request bodies of a file (one per line) in turn, and print the result as JSON.
-- Usage: wrk --script requests.lua URL -- FILE API_KEY

local requests = {}
local turn = 0

function init(args)
  local headers = {["Content-Type"] = "application/json", ["x-api-key"] = args[2]}
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "errors": %d, "seconds": %f, "p50": %f, "p99": %f}\n',
    summary.requests - errors.status,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
