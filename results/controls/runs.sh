#!/usr/bin/env bash
# Trains every arm that has no finished run yet and copies the summaries into records/.
# THREADS=1 RUNS_DIR=runs PYTHON=.venv/bin/python bash results/controls/runs.sh
set -uo pipefail
cd "$(dirname "$0")/../.."
runs=${RUNS_DIR:-runs}
python=${PYTHON:-.venv/bin/python}
transition=model.transition

run() {
    "$python" -m gateloop.run trainer.max_steps=900 runs_dir="$runs" trainer.threads="${THREADS:-2}" tracker=none "$@"
}

for task in modsum hold; do
    for amplitude in data fixed one; do
        for phase in data fixed none; do
            run data.task=$task $transition.amplitude.control=$amplitude \
                $transition.phase.control=$phase
        done
    done
    for domain in real signed; do
        run data.task=$task $transition.domain=$domain
    done
done

# The default arm's other seeds: what `make run` promises.
for seed in 1 2; do
    run seed=$seed
done

mkdir -p results/controls/records
for folder in "$runs"/gateloop-memory_horizon-*; do
    [ -f "$folder/summary.json" ] && "$python" - "$folder" <<'PYTHON'
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
summary = json.loads((folder / "summary.json").read_text())
manifest = json.loads((folder / "manifest.json").read_text())
session = manifest["sessions"][-1]
facts = ("command", "commit", "dirty", "processor", "cores", "packages", "python")
record = {**summary, **{name: session.get(name) for name in facts}}
record["command"] = [part for part in record["command"] if not part.startswith("runs_dir=")]
target = pathlib.Path("results/controls/records", folder.name + ".json")
target.write_text(json.dumps(record, indent=2) + "\n")
PYTHON
done
