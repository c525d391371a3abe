"""How a fact gets to Spectron exactly once, in order: used by replay, and by whatever catches up later.

`limiter` decides how much is in flight, `lane` sends the facts of one lane in order, `settle` decides
what is in doubt, `engine` runs lanes side by side.
"""
