"""How the training process speaks with its parent, through files."""
