# Holdfast: every command a contributor needs. `make help` lists them.
#
# Nothing has to be active or installed beforehand but Python 3.10 or newer and make:
# the first target makes .venv, and makes it again only when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
N ?= 200000
SEED ?= 0
REPEAT ?= 3
PEERS ?=
JOBS ?= 2
RAY ?= 2.48.0
BOUNDS ?= newest
# A tenth of the integration tests: one file for each thing that touches Ray.
SHORT_COMPAT = $(addprefix tests/integration/test_,dag_run.py dag_arguments.py in_place.py virtual_actors.py http_events.py schedules.py isolation.py)
# Each has a Ray, and a Kafka, of its own. Tests of one file share theirs. The files that take long come first.
AT_A_TIME = --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder
# Once, and not within the time limit of a test.
GET_KAFKA = $(BIN)/python deploy/kafka/broker.py --download

# A virtual environment of the caller must not leak into ours.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := help
.PHONY: guard scale help demo kafka test crash lint format types bench simulate cron clean compat compat-short

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@sh .ci/install "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(STAMP) ## Run 300 orders through crashes, then audit them (Ctrl-C and run again: it resumes)
	@$(BIN)/python -m examples.orders

# Needs nothing of .venv: people use it for other things, too.
kafka: ## Run a real Kafka until Ctrl-C (needs Java and Maven) and say where it answers
	@exec "$(PYTHON)" deploy/kafka/broker.py

test: $(STAMP) ## Run the tests, without the long crash tests (JOBS=2 at a time)
	@$(GET_KAFKA)
	@$(BIN)/python -m pytest -m "not slow" --durations=15 $(AT_A_TIME)

# pytest's exit status 5 says that no test carries the mark, which is no failure.
crash: $(STAMP) ## Run the long crash tests
	@$(GET_KAFKA)
	@$(BIN)/python -m pytest -m "slow and not alone" --durations=15 $(AT_A_TIME) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -m "slow and alone" --durations=15 || [ $$? -eq 5 ]

compat: ## Run integration and recovery tests on another Ray and Python (RAY=2.48.0 PYTHON=3.10 BOUNDS=newest|lowest)
	@sh .ci/compat "$(RAY)" "$(PYTHON)" "$(BOUNDS)" -m "not slow" $(AT_A_TIME) tests/integration tests/recovery

compat-short: ## Run some of them on the oldest Ray, with the oldest of all dependencies
	@sh .ci/compat 2.48.0 "3.10 $(PYTHON)" lowest -m "not slow" $(AT_A_TIME) $(SHORT_COMPAT)

lint: $(STAMP) ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## Rewrite the files in our format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## Check the types, strictly
	@$(BIN)/mypy
	@$(BIN)/mypy examples benchmarks deploy/kafka deploy/compat

bench: $(STAMP) ## Measure against plain Ray (REPEAT=3; PEERS=ray_workflow,dbos measures those, too)
	@$(BIN)/python -m benchmarks.run --repeat $(REPEAT) --peers "$(PEERS)" --json benchmarks.jsonl

guard: $(STAMP) ## Measure once; fail when a speed is below half of what is asked
	@$(BIN)/python -m benchmarks.run --repeat 1 --guard --only latency,chain,fanout,many-awaited,event,event-to-call,actor-sequential,actor-at-once-awaited,actor-reads

scale: $(STAMP) ## Run very large and deep workflows, and report time and memory
	@$(BIN)/python -m benchmarks.scale

simulate: $(STAMP) ## Run N=200000 random schedules of the engine
	@$(BIN)/python -m tests.simulation --schedules $(N) --seed $(SEED)

cron: $(STAMP) ## Compare N=200000 random cron texts with a walk of the clock
	@$(BIN)/python -m tests.simulation.cron --expressions $(N) --seed $(SEED)

clean: ## Remove what the other commands made
	rm -rf $(VENV) .compat .demo .kafka .peers build dist benchmarks.jsonl
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
