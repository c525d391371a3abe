"""The cutover: an application's reads, and then its writes, go from Mem0 to Spectron step by step, and back again.

`at_once` has the steps that go back, which need nothing but the state directory; `steps` those that go on.
"""
