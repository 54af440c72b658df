"""The servers as fixtures, for every test that asks for one."""

from tests.servers.harness import prefect_server
from tests.servers.stack import live_stack
from tests.servers.swift import s3_server

__all__ = ["live_stack", "prefect_server", "s3_server"]
