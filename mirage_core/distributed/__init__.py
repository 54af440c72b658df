"""Processes that train together: launched on one or several hosts, supervised, stopped, joined in a group."""
