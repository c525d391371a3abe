"""Gets facts to Spectron exactly once and in order, for replay, following and the outbox.

`scheduler` runs lanes side by side, `longest_lanes` says which of them go first; `lane` decides what is in doubt in one
lane, then sends what is planned. `stream` sends facts one after the other, `batch` many in one request. `recovery` is
the recovery table of docs/protocol.md, with `evidence` (the listing of turns) and `outcomes`. `sessions` opens scopes
and sessions. `run` is what all lanes share, with `limiter` (how many requests are in flight), `brake` (stopping) and
`deferred` (what the next run resumes). `preflight` checks the server before the first write, `review` writes down what
a person has to look at, `tokens` estimates cost.
"""
