"""What the hardware can do, and what a training chooses by it."""
