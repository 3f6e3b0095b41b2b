"""How artifacts came about: the graph of a night's artifacts, and where its boxes stand on a page."""
