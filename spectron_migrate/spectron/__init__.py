"""The wire: the only place that speaks HTTP to Spectron."""
