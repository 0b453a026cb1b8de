"""One file per method: functions that return a fresh Run. Values only; recipe_lookup finds them by name."""
