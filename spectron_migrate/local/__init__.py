"""The local Spectron: a server with Spectron's published API on one machine, for rehearsals and tests.

It follows the contract, and does not pretend where it cannot: calls that a migration does not use answer 501, and
`engine.ContractReading` lists what the contract leaves open. Retrieval is SQLite's BM25 and exact cosine over WordLlama
embeddings; extraction is a small set of rules. The hosted service uses a language model and ranks differently, so
nothing here predicts its ranking.

    server        `serve` and `create_app`; `testing` runs the server in a process of its own
    app, web      routing, authentication and error answers of a request; `buffered_transport` sends an answer at once
    calls/        one handler for each served call
    bodies        request bodies -> frozen values
    answers       rows -> the published JSON
    auth          keys, principals, grants -> what a caller may do
    scopes        paths, patterns, selectors (pure)
    engine        what every call works with; settings
    remember      the write pipeline: idempotency, session, turn, passages, facts; `grouped_writes` commits together
    extract       interface of fact extraction: `rules`, or a `language_model`
    fact_updates  how a new fact changes what is known
    recall        queries; `cache` keeps answers
    maintenance   forget, expire, fsck
    storage       the `Store` interface and its rows; `sqlite`, `items`, `vectors` and `schema` implement it
    faults        injected faults: a layer around the application

Everything runs in one thread, that of the event loop: there are no locks, and a transaction never awaits. Nothing here
imports the migration, so that it cannot share the migration's mistakes.
"""
