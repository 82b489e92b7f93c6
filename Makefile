# Everything a developer or CI runs. Needs Python 3.11 to 3.13, git and make; uv is used when there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15 --durations-min 10
UV := $(shell command -v uv 2>/dev/null)
UV_FOR_LOCK := uv==0.13.9
INSTALLED := $(VENV)/.installed
ARGS ?=
EVENTS ?= 5000000
SECONDS ?= 300
SEED ?= 1
OUTAGE_EVENTS ?= 36000000
INPUTS ?= 1000000
REV ?= HEAD

.DEFAULT_GOAL := help
.PHONY: help install run test test-long check bench bench-compare bench-peers bench-growth bench-queries bench-alerts soak recount market outage fuzz fuzzbytes chaos study market-report screenshots lock clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' Makefile

install: $(INSTALLED) ## Install everything into .venv (hashes checked; nothing is done when up to date)

run: $(INSTALLED) ## Start everything on this machine; options: make run ARGS="--rate 500"
	$(BIN)/tokentide up $(ARGS)

test: $(INSTALLED) build/compiled ## Run the tests but the long ones, with real brokers and engines; a part: make test ARGS="-k kafka"
	$(PYTEST) -m "not long" $(ARGS)

test-long: $(INSTALLED) build/compiled ## Run the long tests: the whole stack, chaos, nasty input
	$(PYTEST) -m long $(ARGS)

# Once, here: else each of the first workers compiles, all at the same time.
build/compiled: $(wildcard streams/*.py) | $(INSTALLED)
	$(BIN)/python -c 'from deploy.worker import load_compiled; load_compiled()'
	@mkdir -p $(@D) && touch $@

check: $(INSTALLED) ## Lint, format check and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED) ## Measure events/s, CPU per event and freshness; writes bench.json
	$(BIN)/python -m tests.benchmarks.bench $(ARGS)

bench-compare: $(INSTALLED) ## Measure this checkout against a revision, in pairs: make bench-compare REV=main~1
	$(BIN)/python -m tests.benchmarks.compare $(REV) $(ARGS)

bench-growth: $(INSTALLED) ## Measure whether an event costs the same when something grows; writes tests/benchmarks/GROWTH.md
	$(BIN)/python -m tests.benchmarks.growth $(ARGS)

bench-peers: $(INSTALLED) build/peers ## Measure against what others would use, each checked row by row
	$(BIN)/python -m tests.benchmarks.bench_peers $(ARGS)

build/peers: tests/benchmarks/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $@ -r $<
	@touch $@

bench-queries: $(INSTALLED) ## Measure how fast every view answers over a year while events come in; writes tests/benchmarks/QUERIES.md
	$(BIN)/python -m tests.benchmarks.queries $(ARGS)

bench-alerts: $(INSTALLED) ## Measure how well sudden share changes are found; writes tests/benchmarks/ALERTS.md
	$(BIN)/python -m tests.benchmarks.alerts $(ARGS)

recount: $(INSTALLED) ## Prove SQL equal to a recount while the worker is killed: make recount EVENTS=5000000
	$(BIN)/python -m tests.e2e.scenario --events $(EVENTS) $(ARGS)

market: $(INSTALLED) ## Replay 91 published days as 5 million requests; prove that their shares come out of SQL
	$(BIN)/python -m tests.e2e.market $(ARGS)

fuzz: $(INSTALLED) ## Send nasty values through the decode path: make fuzz INPUTS=1000000 ARGS="--seed 1"
	$(BIN)/python -m tests.fuzz.run --inputs $(INPUTS) $(ARGS)

fuzzbytes: $(INSTALLED) ## The same with bytes led by coverage: make fuzzbytes ARGS="-max_total_time=600" (needs atheris)
	$(BIN)/python -m tests.fuzz.by_coverage -max_len=4096 $(ARGS)

study: $(INSTALLED) ## Load 50 million requests of the study's market; compare its published numbers; writes tests/benchmarks/STUDY.md
	$(BIN)/python -m tests.e2e.study $(ARGS)

market-report: $(INSTALLED) ## Replay 91 published days and write deploy/report/examples/market-2026
	$(BIN)/python -m tests.e2e.market_report

screenshots: $(INSTALLED) ## Take the README's pictures of the dashboard and a report (needs chromium)
	$(BIN)/python -m tests.e2e.screenshots $(ARGS)

outage: $(INSTALLED) ## Two hours of ClickHouse outage at 5,000 events/s, at speed: make outage OUTAGE_EVENTS=36000000
	$(BIN)/python -m tests.e2e.outage --events $(OUTAGE_EVENTS) $(ARGS)

soak: $(INSTALLED) ## Watch what grows for ten minutes at full speed; longer: make soak ARGS="--minutes 120 --rate 60000"
	$(BIN)/python -m tests.benchmarks.soak $(ARGS)

chaos: $(INSTALLED) ## Kill, cut, pause, refuse; then find every record: make chaos SECONDS=4800 SEED=7
	$(BIN)/python -m tests.chaos.run --seconds $(SECONDS) --seed $(SEED) $(ARGS)

$(INSTALLED): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo '$(PYTHON) is not Python 3.11 to 3.13: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
ifneq ($(UV),)
	test -x $(BIN)/python || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
else
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endif
	@touch $@

lock: $(INSTALLED) ## Resolve pyproject.toml and Kafka's jars anew; writes requirements*.txt and kafka.lock
ifeq ($(UV),)
	$(BIN)/python -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check $(UV_FOR_LOCK)
endif
	for extras in ":local --extra report" "-dev:local --extra report --extra dev"; do \
		$(or $(UV),build/lock/bin/uv) pip compile pyproject.toml --extra $${extras#*:} --quiet \
			--universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
			--output-file requirements$${extras%%:*}.txt || exit 1; \
	done
	$(or $(UV),build/lock/bin/uv) pip compile tests/benchmarks/peers/requirements.in --quiet \
		--universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--output-file tests/benchmarks/peers/requirements.txt
	$(BIN)/python -m deploy.local.kafka_jars

clean: ## Remove what was installed and built; data in .tokentide stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
