#!/usr/bin/env bash
# otlp.sh FOLDER: prints the path of a Python that has OTLP's schema as OpenTelemetry publishes it; made in FOLDER, once.
set -euo pipefail

folder=${1:?usage: otlp.sh FOLDER}
readonly version=1.45.2 schema=opentelemetry.proto.collector.trace.v1.trace_service_pb2

python=$folder/bin/python
mkdir -p "$folder"
# Several checkouts' tests may want it at once.
exec 9>"$folder/lock"
if command -v flock >/dev/null; then flock 9; fi
if ! "$python" -c "import $schema" 2>/dev/null; then
    python3 -m venv "$folder" >&2
    "$python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 10 "opentelemetry-proto==$version" >&2
fi
printf '%s\n' "$python"
