"""What reads the outside: listings, formats, and the batches that a source is divided into."""
