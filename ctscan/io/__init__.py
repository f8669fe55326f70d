"""Bytes of a file, or files of a scan, to slices; a stranger's bytes in a process of their own."""
