"""The servers as fixtures, for every test that asks for one."""

from tests.servers.stack import live_stack

__all__ = ["live_stack"]
