"""What finds the same again: word hashes, MinHash, the index of all nights, n-grams, picture hashes."""
