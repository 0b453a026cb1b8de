"""Doctor: finds out in the first seconds of a job, or before it, what would stop the run later."""

from eyespot.cluster.doctor.examine import examine, examine_here
from eyespot.cluster.doctor.findings import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine", "examine_here"]
