"""Two engines behind one interface: SQLite, which every machine has, and Postgres, which several hosts share.

`interface` is what both offer. `location` reads a Postgres URL, `opening` connects to it and checks what it finds,
`postgres` is the connection, `dialect` translates statements and tables, `tables` creates a schema, `session_locks`
holds what ends with the connection. psycopg is an extra: only `postgres` imports it, and only `opening` imports that.
"""
