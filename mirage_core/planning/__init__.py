"""What a recipe will need before it starts: memory of every stage on every device, tokens, operations, hours.

Counted from sizes alone: no weights are read. See docs/real-size.md.
"""
