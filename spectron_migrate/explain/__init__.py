"""`explain`: what became of one memory, or of the memories of one user, with the evidence on both sides."""

from spectron_migrate.explain.story import Sources, explain_memory, explain_user

__all__ = ["Sources", "explain_memory", "explain_user"]
