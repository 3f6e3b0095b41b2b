"""What a person sees, and how a night is started from a terminal."""
