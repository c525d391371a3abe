"""The local Spectron: a server that keeps Spectron's published contract on one machine, for rehearsals and tests.

It is right where the contract speaks and honest where it does not: what a migration does not use answers
501, and `engine.Reading` names what the contract leaves open. Retrieval is SQLite's BM25 and exact cosine over
WordLlama embeddings, extraction a small rule set; the hosted service uses a language model and ranks
differently, so nothing here predicts its ranking.

    server      `serve` and `create_app`; `testing` starts it as a process of its own
    app, web    one request from key to answer, and every way it can end; `onewrite` sends it in one piece
    calls/      one handler for each call that is served
    bodies      request bodies -> frozen values
    answers     rows -> the published JSON
    auth        keys, principals, grants -> what a caller may do
    scopes      paths, patterns, selectors (pure)
    engine      what every call works with; settings
    remember    the write pipeline: idempotency, session, turn, passages, facts; `commits` does them together
    extract     conversation -> facts, behind `Extractor`: `rules`, or a `language_model`
    reconcile   what a new fact does to what is already known
    recall      queries; `cache` remembers answers
    upkeep      forget, expire, fsck
    storage     the `Store` interface and its rows; `sqlite`, `items`, `vectors` and `schema` implement it
    faults      what goes wrong on purpose: a layer around it all

Everything runs in one thread, the event loop's: there are no locks, and a transaction never waits. Nothing
here imports the migration, so that it cannot share the migration's mistakes.
"""
