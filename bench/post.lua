-- POST the body in the file $BODY with the headers in the file $HEADERS (`name: value` a line); print what came of it as JSON.
local function content(path)
   local file = assert(io.open(path, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

wrk.method = "POST"
wrk.body = content(os.getenv("BODY"))
for name, value in content(os.getenv("HEADERS")):gmatch("([^:\n]+): ([^\n]+)\n") do
   wrk.headers[name] = value
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format('\n{"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f}\n',
      summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
