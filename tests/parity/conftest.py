"""Scripts that only the reference environment can import are no doctests."""

collect_ignore_glob = ["record_*.py", "reference_env/*"]
