"""`doctor`: finds what would make a migration fail later, before anything is written, and says how to fix it.

check     the result of a check
machine   disk space, file systems, permissions, git
mem0      Mem0: its version and store, and what can go wrong with them
memories  the dump with the mapping: unmapped memories, filters that cannot be answered, times, expiry
spectron  Spectron: reachable, the key, its grants, the clock, the scopes
run       all checks, one after the other
probe     what a Spectron does where its documentation leaves it open (`doctor --probe`): probe_questions, probe_scope
"""

from spectron_migrate.doctor.check import Check, Diagnosis
from spectron_migrate.doctor.run import run_doctor

__all__ = ["Check", "Diagnosis", "run_doctor"]
