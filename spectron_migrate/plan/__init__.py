"""From a dump to what is to be sent: what changed, which lanes and shards, what it will take. Needs no server."""
