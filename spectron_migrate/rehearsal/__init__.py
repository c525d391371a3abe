"""The environment of `rehearse`: a small real Mem0 store, made by Mem0 itself from a data set, and a local Spectron."""
