"""Serving in closed form: generation, continuous batching, two kinds of engine, and waits of requests that arrive."""
