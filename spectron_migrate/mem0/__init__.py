"""Where memories come from: one reader a kind of Mem0, none of which writes or constructs a Mem0 object.

Nothing is imported here, so that a command which needs one reader does not pay for the others.
"""
