"""Devices with nothing installed on them: a program is copied over ssh or adb, run, and removed."""
