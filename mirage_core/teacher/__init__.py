"""Teachers, which write the reasoning chains for training, and the checks that every chain must pass."""

from mirage_core.llm_client.secrets import use_key_reader
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
    "make_teacher",
    "teach",
    "teacher_identity",
    "use_key_reader",
    "write_examples",
]
