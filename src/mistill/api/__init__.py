"""What goes over the wire, and what it means: no retries, no pacing, no policy.

The client of Mistral's HTTP API and of servers that speak it nearly (`dialects`; `grammar` is what the local model's
server takes in place of a schema); wire structs and a constant for each `Operation`, one file an operation; answers,
streams, error bodies and limits, read as servers really send them; what tokens cost. Only `transport` opens
connections, for `client`; the rest is pure.
"""
