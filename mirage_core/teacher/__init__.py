"""Teachers: who writes the chains a student learns, and the checks every chain must pass."""

from mirage_core.llm_client.secrets import keys_from
from mirage_core.teacher.checks import check_chain
from mirage_core.teacher.endpoint import EndpointTeacher
from mirage_core.teacher.examples import teach, write_examples
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import Teacher
from mirage_core.teacher.teacher import make_teacher, teacher_identity

__all__ = [
    "EndpointTeacher",
    "OracleTeacher",
    "Teacher",
    "check_chain",
    "keys_from",
    "make_teacher",
    "teach",
    "teacher_identity",
    "write_examples",
]
