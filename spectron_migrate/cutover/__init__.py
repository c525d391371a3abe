"""The cutover: an application's reads, and then its writes, move from Mem0 to Spectron step by step.

phases          the phases, which command is legal in which, and what a command returns
ungated_steps   start, revert, abort and shifts back to Mem0: they need nothing but the state directory
gated_steps     check, accept, shift and complete: they evaluate the gates
gates           every gate, and how to add one
next_step       the step that an operator would take next
evidence        what the gates judge, gathered once
privacy         the report of what Mem0 has deleted or replaced and Spectron still holds
status          what `status` shows of a cutover, and the command to run next
"""
