"""What filter knows of a text: compiled measures, published rules, language, private data."""
