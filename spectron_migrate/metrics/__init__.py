"""Metrics of a migration for Prometheus: what the state directory shows, and the requests of this process."""
