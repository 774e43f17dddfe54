"""What this machine can do: a list of checks, each of which says what it found.

No module here imports more than the standard library at its top: where a library is broken, the
doctor must still be able to say so. A new check is one more function in ``CHECKS`` (facts, at
once) or ``TESTS`` (measurements, some seconds) of ``examination``.
"""

from histoslide.doctor.examination import examine
from histoslide.doctor.findings import Diagnosis, Finding, diagnosis_document

__all__ = ["Diagnosis", "Finding", "diagnosis_document", "examine"]
