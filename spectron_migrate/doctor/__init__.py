"""What would make a migration fail later, found before anything is written, each with how to mend it.

model     a check and what it says
place     disk, file systems, permissions, git
memories  the dump beside the mapping: what has no place, filters without an answer, times, what expires
source    Mem0: its version, its store, and what is dangerous about them
service   Spectron: reachable, the key, its grants, the clock, the scopes
run       all of them, one after the other
"""

from spectron_migrate.doctor.check import Check, Diagnosis
from spectron_migrate.doctor.run import run_doctor

__all__ = ["Check", "Diagnosis", "run_doctor"]
