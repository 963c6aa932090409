"""From run folders to figures, tables and a report. Needs neither torch nor a live process."""
