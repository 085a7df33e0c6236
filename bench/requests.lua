-- wrk: the requests of a file, "path<TAB>body" on each line, those of each thread from one of its own.
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
local prepared, sent = {}, 0
function init(args)
  local method, file = args[1], args[2]
  for line in io.lines(file .. "." .. number) do
    local path, body = line:match("^([^\t]*)\t(.*)$")
    local headers = { ["Content-Type"] = "application/json" }
    prepared[#prepared + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
end
function request()
  sent = sent + 1
  if sent > #prepared then
    -- Not the same again, which would be another kind of work.
    io.stderr:write("out of requests\n")
    os.exit(3)
  end
  return prepared[sent]
end
