"""What a pre-training is made of: what may be asked of it, and where its text, its weights and its pace come from."""
