"""Videos to a clip store, and clips out of it."""
