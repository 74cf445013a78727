"""Reads OTLP JSON lines from stdin by OTLP's own schema, and prints how many spans they hold."""

import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

spans = 0
for line in sys.stdin:
    request = json_format.Parse(line, ExportTraceServiceRequest(), ignore_unknown_fields=False)
    spans += sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
print(spans)
