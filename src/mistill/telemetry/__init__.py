"""What OpenTelemetry is told of requests, attempts, jobs and runs, by its conventions for generative AI.

Only its API is used (the extra ``otel``): whoever wants to see something configures an SDK. Where nobody has, nothing
of it is loaded, and a request costs no call more: ``providers`` says whether anybody has.
"""
