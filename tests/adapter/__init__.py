"""The adapter: unit tests, and tests with a real Mem0 and a real local Spectron."""
