"""Teachers: who writes the chains a student learns, and the checks every chain must pass."""

from mirage_core.teacher.checks import check_chain
from mirage_core.teacher.examples import write_examples
from mirage_core.teacher.make import make_teacher
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import Teacher

__all__ = ["OracleTeacher", "Teacher", "check_chain", "make_teacher", "write_examples"]
