"""Requests over time on serving engines: arrivals, scheduler, KV blocks, prefix cache, routing."""
