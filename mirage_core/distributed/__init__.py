"""Processes that run a job together: launched on one or several hosts, supervised, stopped, joined in a group."""
