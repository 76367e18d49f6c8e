-- POST the bodies in the file $BODIES (each after its length on a line) in turn, with the headers in the file $HEADERS
-- (`name: value` a line); print what came of it as JSON.
local function opened(variable)
   return assert(io.open(os.getenv(variable), "rb"))
end

local function bodies()
   local file, found = opened("BODIES"), {}
   for length in function() return file:read("*n", "*l") end do
      found[#found + 1] = file:read(length)
   end
   file:close()
   return found
end

local requests, turn = {}, 0

function init()
   local file, headers = opened("HEADERS"), {}
   for name, value in file:read("*a"):gmatch("([^:\n]+): ([^\n]+)\n") do
      headers[name] = value
   end
   file:close()
   headers["Host"] = wrk.host .. ":" .. wrk.port
   for number, body in ipairs(bodies()) do
      requests[number] = wrk.format("POST", nil, headers, body)
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format('\n{"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f}\n',
      summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
