"""One file per method: functions that return a fresh Run."""
