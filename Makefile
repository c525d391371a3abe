# Each target makes its own .venv when it is missing; nothing needs root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Where it is set, hundreds of processes of the tests compile the same files anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint bench chaos stores hosts dist-test image-test compat clean

demo: $(VENV)/.ready
	$(BIN)/spectron-migrate rehearse

# As `lint` and all tests; mypy, which keeps one processor busy, runs beside them.
test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n auto; tests=$$?; wait $$types && exit $$tests

# What takes no more than a minute, for while one writes; the rest is in `test`.
quick: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n auto -m 'not slow'

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Longer than a test may take; each has a short version among the tests.
bench: $(VENV)/.ready
	$(BIN)/python tests/bench/local_bench.py
	$(BIN)/python tests/bench/export_bench.py
	$(BIN)/python -m tests.bench.export_bench --rows 100000 --dims 16
	$(BIN)/python -m tests.bench.export_bench --rows 100000 --kind pgvector
	$(BIN)/python -m tests.bench.export_bench --rows 100000 --kind file
	$(BIN)/python tests/bench/verify_bench.py
	$(BIN)/python tests/bench/startup_bench.py
	$(BIN)/python -m tests.bench.replay_bench speed capacity start lanes ledger memory
	$(BIN)/python -m tests.bench.loops_bench
	$(BIN)/python -m tests.bench.plan_bench
	$(BIN)/python -m tests.bench.capture_bench
	$(BIN)/python -m tests.bench.rounds_bench
	$(BIN)/python -m tests.bench.cutover_bench
	$(BIN)/python -m tests.bench.adapter_bench
	$(BIN)/python -m tests.bench.metrics_bench
	$(BIN)/python -m tests.bench.hosts_bench

chaos: $(VENV)/.ready
	HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -n auto -m hypothesis
	SPECTRON_MIGRATE_DISK=all $(BIN)/python -m pytest -n auto tests/cli/test_unwritable.py
	$(BIN)/python tests/local/chaos_kill.py --rounds 50
	$(BIN)/python tests/chaos/replay_chaos.py --kills 200
	$(BIN)/python tests/chaos/copied_states.py --plays 60

# Every store, also those whose servers are slow, and stores that real versions of Mem0 wrote.
stores: $(VENV)/.ready
	SPECTRON_MIGRATE_STORES=all $(BIN)/python -m pytest -n auto tests/mem0/stores tests/mem0/test_conformance.py
	$(BIN)/python -m tests.stores.check

# What several hosts share, in files and in Postgres; the server comes in a wheel. Then whole suites with their states there.
hosts: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto tests/database tests/state tests/adapter/test_async_adapters_of_hosts.py \
	  tests/doctor/test_database.py tests/cli/test_state_in_postgres.py tests/cutover/test_command_line.py \
	  tests/migration/test_follow_of_hosts.py tests/migration/test_state_copy.py tests/migration/test_state_copy_midway.py
	SPECTRON_MIGRATE_LEDGER=postgres $(BIN)/python -m pytest -n auto -m 'not ledger_file' \
	  tests/ledger tests/delivery tests/migration tests/cutover tests/adapter tests/verify tests/chaos/test_several_hosts.py
	$(BIN)/python tests/chaos/several_hosts.py

# Wheel and sdist in empty environments, with every Python of this machine.
dist-test: $(VENV)/.ready
	$(BIN)/python -m tests.dist.check

# The image, built and run with podman or docker; on a machine without a registry its base is made of Debian's packages.
image-test: $(VENV)/.ready
	$(BIN)/python -m tests.dist.image

# Stores of other versions of Mem0, and the lowest and newest version of each dependency.
compat: $(VENV)/.ready
	$(BIN)/python -m tests.compat.check
	$(BIN)/python -m tests.dist.bounds

# Debian's Python may lack ensurepip; a virtualenv fetched by pip needs neither it nor root.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, set PYTHON="; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  rm -rf $(VENV) && \
	  $(PYTHON) -m pip install --quiet --target .venv-bootstrap virtualenv && \
	  PYTHONPATH=.venv-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV) && \
	  rm -rf .venv-bootstrap; }
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[local]' --group dev
	@touch $@

clean:
	rm -rf $(VENV) .venv-bootstrap .mypy_cache .ruff_cache dist build
