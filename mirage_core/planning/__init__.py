"""What a recipe will need: memory of every stage on a device, tokens, operations, hours.

Computed from sizes alone: no weights are read. See docs/real-size.md.
"""
