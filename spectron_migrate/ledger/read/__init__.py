"""Reads the ledger; one module for each question. Nothing here changes it.

`plans`: what a plan writes, and what became of it. `memories`: what is known of one memory. `receipts`: what is in
Spectron, and under which ids. `turns`: which turns and passages are taken. `status`: how far a migration is.
`cutover`: what Spectron lacks, and what it has although Mem0 no longer has it.
"""
