"""A real replay against a real server, killed again and again."""
