"""From what the detector or a rule says to an alert that a person can read: no I/O, no clock."""
