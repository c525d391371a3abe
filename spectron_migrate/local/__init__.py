"""The local Spectron: a server that keeps Spectron's published contract on one machine, for rehearsals and tests.

It is right where the contract speaks and honest where it does not: what a migration does not use answers
501. Retrieval is SQLite's BM25 and exact cosine over WordLlama embeddings, extraction a small rule set;
the hosted service uses a language model and ranks differently, so nothing here predicts its ranking.

    app         routes: one handler a call of the document
    web         one request: caller, body, trace id, errors
    auth        keys, principals, grants -> what a caller may do
    scopes      paths, patterns, selectors (pure)
    remember    the write pipeline: idempotency, session, turn, passages, facts
    reconcile   what a new fact does to what is already known
    extract     text -> facts, behind `Extractor`
    recall      queries
    upkeep      forget, expire, fsck
    storage     the `Store` interface and its rows; `sqlite` and `vectors` implement it
    server      `serve`; `testing` starts it as a process of its own

Nothing here imports the migration, so that it cannot share the migration's mistakes.
"""
