"""Programs that made files of this repository; not installed with the library."""
