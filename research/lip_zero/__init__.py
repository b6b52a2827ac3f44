"""Reference offset of each corpus, measured where closed lips part."""
