"""The data stages: from sources to shards of tokens, pictures and histories."""
