"""The report: one self-contained page that shows runs to somebody who was not there."""

from eyespot.eval.report.report import write_report

__all__ = ["write_report"]
