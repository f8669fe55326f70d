"""Files -> slices: a file's bytes here, a stranger's in a process of their own, scans as volumes."""
