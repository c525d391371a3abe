"""dual-verify: did every memory arrive, does anything leak, does Spectron find what Mem0 finds, and if not, why."""
